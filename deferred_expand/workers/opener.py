"""What the unmapped task does: it opens the stream, and walks it where no stream head does."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deferred_expand import settings
from deferred_expand.airflow_internals.comms import count_task_instances
from deferred_expand.airflow_internals.sdk import AirflowFailException, AirflowSkipException
from deferred_expand.airflow_internals.tasks import MappableValue
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import MapLengthExceeded, SourceFailed, StreamError
from deferred_expand.sources.importing import find_function
from deferred_expand.sources.opening import is_operator
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import BatchEvent
from deferred_expand.streams.page import START
from deferred_expand.workers.described import describe_stream, record_of
from deferred_expand.workers.last_run import position_after_last_run
from deferred_expand.workers.reader import come_back_unless_over
from deferred_expand.workers.waiting import StreamWait

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.sdk import BaseOperator, BaseTrigger
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.commit_log import Commit
    from deferred_expand.streams.events import Failure
    from deferred_expand.streams.page import Position


def error_of(failure: Failure, hint: str = "") -> Exception:
    """How a task ends whose source could not go on."""
    if failure.outcome == "skip":
        return AirflowSkipException(failure.message)
    message = failure.message + hint
    return AirflowFailException(message) if failure.outcome == "fail" else SourceFailed(message)


def require_room(definition: StreamDefinition, run_id: str, plan: Commit) -> None:
    """:raises MapLengthExceeded: a task group would have more instances than Airflow allows."""
    if plan.log.items <= settings.max_map_length() or plan.log.items == plan.items_before:
        return
    group = definition.group.group_id if definition.group else None
    raise MapLengthExceeded(
        f"task group {group!r} of DAG {definition.dag_id!r}, run {run_id!r}, has reached "
        f"{plan.items_before} item(s) and would have {plan.log.items}, which is more than [core] "
        "max_map_length allows. What is committed stays. Either raise the setting for workers, API servers "
        "and triggerers, or let the source give more per item; then clear what has failed, and the stream "
        "goes on where it was"
    )


class StreamOpener:
    """
    One try of the unmapped task.

    :param task: that is executed; its ``commit`` leads to :meth:`commit`.
    :param source_kwargs: the source's arguments, rendered.
    """

    def __init__(
        self, task: BaseOperator, definition: StreamDefinition, source_kwargs: dict[str, Any], context: Any
    ) -> None:
        self._task = task
        self._definition = definition
        self._context = context
        self._wait = StreamWait(task, definition, source_kwargs, context, for_head=False)

    def open(self) -> MappableValue:
        """Open the stream anew; what an earlier run of this task left is gone by now."""
        self._say_where_hops_run()
        ref = self._wait.ref
        now, unit = int(time.time()), self._definition.unit.kind
        log = CommitLog(uuid4().hex, position=self._begin(), at=now, unit=unit, opened=now)
        self._wait.store.write_log(log)
        self._wait.store.write_down(record_of(self._definition, (ref.task_id, -1)))
        if ref.mapped_task_id is None or self._definition.group is not None:
            for parent in self._definition.parent_refs(self._wait.run_id):
                come_back_unless_over(StreamStore(parent))
        if ref.mapped_task_id is None:
            return self._go_on(log, until=None)
        existing = count_task_instances(ref.dag_id, ref.run_id, ref.mapped_task_id)
        return self._go_on(log, until=max(existing - ref.heads, 0))

    def _begin(self) -> Position:
        if not self._definition.continue_last_run:
            return START
        return position_after_last_run(self._definition, self._context)

    def commit(self, event: dict[str, Any], until: int | None) -> MappableValue:
        """
        Commit batches where no stream head does: before the mapped task of a stream that is run
        again starts, and to the end of a stream that no task is expanded over.

        :param event: that a trigger has sent.
        :param until: how many item instances are left of the earlier run; ``None``: to the end.
        """
        log = self._wait.store.read_log()
        if log is None or log.stream != event["stream"]:
            raise StreamError(f"{self._definition.where}: another try of the task has opened the stream anew")
        return self._take(log, self._wait.after(log, event), until)

    def _take(self, log: CommitLog, outcome: BaseTrigger | BatchEvent, until: int | None) -> MappableValue:
        if not isinstance(outcome, BatchEvent):
            self._task.defer(trigger=outcome, method_name="commit", kwargs={"until": until})
        plan = plan_commit(log, outcome, self._wait.try_number)
        if plan is not None and self._definition.group is not None:
            require_room(self._definition, self._wait.run_id, plan)
        if plan is None:  # committed by the expander, or another triggerer has gone on
            self._wait.note_refused(log, outcome)
            return self._go_on(log, until)
        self._wait.store.write(plan)
        return self._go_on(plan.log, until)

    def _go_on(self, log: CommitLog, until: int | None) -> MappableValue:
        """
        Return the length of the mapped task once that marks no instance wrongly REMOVED.

        A length below that of an earlier run marks the instances above it REMOVED, and growth never
        brings them back (airflow/models/dagrun.py, ``_revise_map_indexes_if_mapped``). What those
        have returned in the earlier run would still count as results of the mapped task.
        """
        if log.failure is not None and log.grown is None:
            if log.failure.outcome != "skip":
                self._task.log.error("The source failed:\n%s", log.failure.traceback)
            raise error_of(log.failure)
        if not self._is_far_enough(log, until):
            if until and log.grown is None:
                self._task.log.info("%d of %d items of the earlier run are there again", log.items, until)
            self._wait.until = max(1, until or 0)
            return self._take(log, self._wait.go_on(log), until)
        if log.ended:
            self._wait.store.delete_left(log)
        if self._definition.group is not None and log.grown is None:
            log = self._leave_to_airflow(log)
        definition, store = self._definition, self._wait.store
        tasks = (definition.mapped_task_id,) if definition.group is None else definition.group.task_ids
        store.forget_results(log.items + 1, until or 0, [task for task in tasks if task is not None])
        store.write_down(record_of(definition, self._wait.ref.walker))
        items = f"are read by a task that is given {definition.task_id!r}.output"
        return MappableValue({**describe_stream(definition), "items": items}, mapped_length=self._length(log))

    def _is_far_enough(self, log: CommitLog, until: int | None) -> bool:
        if log.ended and (log.grown is None or not log.is_behind):
            return True
        if self._definition.group is None:
            return until is not None and log.items >= until
        # With a failure, too, what is committed shall run; the head goes on from there.
        return log.grown is not None and (log.grown >= max(1, until or 0) or log.failure is not None)

    def _leave_to_airflow(self, log: CommitLog) -> CommitLog:
        """It expands the group by the length that is returned; the log says so for the head."""
        group = self._definition.group
        assert group is not None
        self._task.log.info(
            "Task group %r has not grown with the stream: Airflow expands it now. It grows where an "
            "expander is at work on a database with row locks, unless materialize='callback' or the "
            "stream is walked on workers",
            group.group_id,
        )
        grown = replace(log, grown=log.items)
        self._wait.store.write_log(grown)
        return grown

    def _length(self, log: CommitLog) -> int:
        return 1 + log.items if log.grown is None else log.grown

    def _say_where_hops_run(self) -> None:
        definition = self._definition
        if is_operator(find_function(definition.source, self._task.get_dag())):
            where = "in the triggerer"
            if definition.hops_on_worker:
                where = "on workers: only the DAG file has the operator, or a function it is given"
            elif definition.in_dag_file:
                where = "in the triggerer, in a process that loads the DAG file"
            self._task.log.info("The hops of %s run %s", definition.source, where)
