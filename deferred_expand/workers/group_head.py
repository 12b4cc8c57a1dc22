"""The stream head beside a task group, which is an unmapped task of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.exceptions import StreamError
from deferred_expand.workers.described import record_of
from deferred_expand.workers.head import StreamHeadOperator
from deferred_expand.workers.opener import require_room

if TYPE_CHECKING:
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.commit_log import Commit, CommitLog
    from deferred_expand.streams.ref import StreamRef
    from deferred_expand.workers.waiting import StreamWait


class GroupHeadOperator(StreamHeadOperator):
    """
    Walks the stream on from the group's first instances to its end; until then what follows the group waits.

    It sets no length, which the expander does with the instances that it makes: what the scheduler makes of
    a greater length it starts without looking at dependencies (airflow/models/dagrun.py,
    ``_revise_map_indexes_if_mapped``).
    """

    _itself = "this task"
    ui_color = "#e8f0fe"

    def execute(self, context: Any) -> None:
        wait = self._wait(context)
        wait.store.write_down(record_of(self._definition, wait.ref.walker))
        super().execute(context)

    def _write(self, wait: StreamWait, plan: Commit) -> None:
        require_room(self._definition, wait.run_id, plan)
        wait.store.write(plan)

    def _go_on(self, context: Any, wait: StreamWait, log: CommitLog) -> None:
        if log.grown is None:
            raise StreamError(_given_up(self._definition, wait.run_id))
        if log.ended and log.is_behind:
            return self._take(context, wait, log, wait.go_on(log))
        return super()._go_on(context, wait, log)

    def _require_all_instances(self, ref: StreamRef, log: CommitLog) -> None:
        """The expander makes them in the transaction that says so."""


def _given_up(definition: StreamDefinition, run_id: str) -> str:
    """A task of a group that cannot tell its length is ``upstream_failed`` (airflow/models/taskmap.py)."""
    group = definition.group.group_id if definition.group else None
    return (
        f"task group {group!r} of DAG {definition.dag_id!r}, run {run_id!r}, has no instances: task "
        f"{definition.task_id!r} was marked as done before it had any, so that Airflow has given the group "
        f"up. Clear {definition.task_id!r} with its downstream"
    )
