"""How many items of a stream are finished, and have failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.comms import ENDED_STATES, count_task_instances

if TYPE_CHECKING:
    from collections.abc import Collection

    from deferred_expand.definition import StreamDefinition


_RAN = ("success", "failed", "skipped")
_FAILED = ("failed",)
_FAILED_IN_GROUP = ("failed", "upstream_failed")


def count_finished(definition: StreamDefinition, run_id: str, states: Collection[str] = ENDED_STATES) -> int:
    """In a task group: by all of its leaves."""
    return min(
        count_task_instances(definition.dag_id, run_id, task_id, states=states)
        for task_id in definition.counted
    )


def count_failed(definition: StreamDefinition, run_id: str) -> int:
    """For good. In a task group: so that a leaf has failed, or cannot run."""
    states = _FAILED if definition.group is None else _FAILED_IN_GROUP
    return max(
        count_task_instances(definition.dag_id, run_id, task_id, states=states)
        for task_id in definition.counted
    )


def count_tried(definition: StreamDefinition, run_id: str) -> int:
    """Of which some have failed: without what is no item any more, or never could run."""
    return count_finished(
        definition, run_id, _RAN if definition.group is None else (*_RAN, "upstream_failed")
    )
