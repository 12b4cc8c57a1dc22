"""How many items of a stream are finished, and have failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.comms import ENDED_STATES, count_task_instances

if TYPE_CHECKING:
    from deferred_expand.definition import StreamDefinition


def count_finished(definition: StreamDefinition, run_id: str) -> int:
    """In a task group: by all of its leaves."""
    return min(
        count_task_instances(definition.dag_id, run_id, task_id, states=ENDED_STATES)
        for task_id in definition.counted
    )


def count_failed(definition: StreamDefinition, run_id: str) -> int:
    """For good. In a task group: so that a leaf has failed, or cannot run."""
    states = ("failed",) if definition.group is None else ("failed", "upstream_failed")
    return max(
        count_task_instances(definition.dag_id, run_id, task_id, states=states)
        for task_id in definition.counted
    )
