"""The stream head: the instance of the mapped task with map index 0."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from deferred_expand import settings
from deferred_expand.airflow_internals.comms import (
    ENDED_STATES,
    count_task_instances,
    is_in_process,
    set_map_index_label,
    task_instance_state,
)
from deferred_expand.airflow_internals.contexts import context_of
from deferred_expand.airflow_internals.sdk import (
    AirflowRescheduleException,
    AirflowSkipException,
)
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import ItemsRemoved, StreamError, TooManyItemsFailed
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import BatchEvent, Failure
from deferred_expand.triggers.counts import count_failed
from deferred_expand.triggers.failing_fast import require_few_failed_items
from deferred_expand.workers.arguments import SourceArguments
from deferred_expand.workers.opener import error_of
from deferred_expand.workers.reader import come_back_unless_over
from deferred_expand.workers.waiting import StreamWait

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from deferred_expand.airflow_internals.sdk import BaseTrigger
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.commit_log import Commit
    from deferred_expand.streams.ref import StreamRef


class StreamHeadOperator(SourceArguments):
    """
    Keeps the mapped task unfinished while its stream is open, and commits batches on a worker.

    Each batch event resumes it. It commits what the event says, which also tells the scheduler the
    new length, and asks to be scheduled again: the scheduler then creates the missing instances
    (airflow/models/dagrun.py, ``_revise_map_indexes_if_mapped``), and the head defers once more.
    """

    template_fields: Sequence[str] = ("source_kwargs",)
    _itself = "the instance with map index 0"

    def __init__(
        self,
        *,
        definition: StreamDefinition,
        source_kwargs: dict[str, Any],
        show: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._definition = definition
        self.source_kwargs = source_kwargs
        self.show = show

    def _context_of_source(self, context: Any) -> Any:
        dag: Any = self.get_dag()
        return context_of(dag.get_task(self._definition.task_id), context)

    def execute(self, context: Any) -> None:
        """Go on from the last commit: wait for batches, or end."""
        wait = self._wait(context)
        for parent in self._definition.parent_refs(wait.run_id):
            come_back_unless_over(StreamStore(parent))
        self._let_unmapped_task_end(wait.ref)
        log = wait.store.read_log()
        if log is None:
            raise StreamError(f"{wait.ref} is not open: clear {wait.ref.task_id!r} with its downstream")
        self._go_on(context, wait, self._begin_try(wait, log))

    def _begin_try(self, wait: StreamWait, log: CommitLog) -> CommitLog:
        """What the log says once an earlier try's failure is forgotten, and its items' failures known."""
        begun = log
        if log.failure is not None and log.failed_try != wait.try_number:
            self.log.info("A new try: the stream goes on after item %d", log.items)
            begun = replace(begun, failure=None, failed_try=None)
        is_known = (log.failed_before or (0, 0))[0] == wait.try_number
        if not is_known and (wait.try_number > 1 or self._definition.control.tolerance is not None):
            begun = replace(
                begun, failed_before=(wait.try_number, count_failed(self._definition, wait.run_id))
            )
        if begun != log:
            wait.store.write_log(begun)
        return begun

    def commit(self, context: Any, event: dict[str, Any]) -> None:
        """Make the staged batches visible, and let the scheduler create their instances."""
        wait = self._wait(context)
        log = wait.store.read_log()
        if log is None or log.stream != event["stream"]:
            return self.execute(context)
        self._take(context, wait, log, wait.after(log, event))

    def _wait(self, context: Any) -> StreamWait:
        own = self._context_of_source(context)
        return StreamWait(self, self._definition, self.rendered_kwargs, own, for_head=True)

    def _let_unmapped_task_end(self, ref: StreamRef) -> None:
        """Cleared alone, it opens the stream anew, and walks it up to the items that there are."""
        state = task_instance_state(ref.dag_id, ref.run_id, ref.task_id, -1)
        if state not in ENDED_STATES:
            self.log.info("Task %r is %s: this instance waits for it", ref.task_id, state)
            self._requeue()

    def _take(
        self, context: Any, wait: StreamWait, log: CommitLog, outcome: BaseTrigger | BatchEvent
    ) -> None:
        if not isinstance(outcome, BatchEvent):
            self.defer(trigger=outcome, method_name="commit")
        plan = plan_commit(log, outcome, wait.try_number)
        if plan is None and is_in_process():
            self._requeue()  # the source waits for what its items return
        if plan is None:
            self.log.warning("The stream has gone on without these batches; they are dropped")
            wait.note_refused(log, outcome)
            return self.execute(context)
        self._write(wait, plan)
        self.log.info("Committed %d batch(es): %s", len(outcome.counts), plan.log.describe())
        set_map_index_label(context, plan.log.label)
        # The pass of the scheduler that creates the instances is also the one that shows which of
        # those that the expander has made an earlier pass took for surplus.
        if outcome.counts or (plan.log.ended and self._definition.materialize != "callback"):
            self._requeue()
        self._go_on(context, wait, plan.log)

    def _write(self, wait: StreamWait, plan: Commit) -> None:
        wait.store.write(plan, mapped_length=1 + plan.log.items)

    def _go_on(self, context: Any, wait: StreamWait, log: CommitLog) -> None:
        set_map_index_label(context, log.label)
        if not log.ended and log.failure is None:
            if not is_in_process():
                self._require_few_failed_items(wait, log)
            return self._take(context, wait, log, wait.go_on(log))
        self._require_all_instances(wait.ref, log)
        if log.failure is not None:
            self._end_as(log.failure, log.items)
        wait.store.delete_left(log)
        if not log.items:
            raise AirflowSkipException("The source gave no items")

    def _require_few_failed_items(self, wait: StreamWait, log: CommitLog) -> None:
        _, before = log.failed_before or (0, 0)
        try:
            require_few_failed_items(self._definition, wait.run_id, before, wait.control())
        except TooManyItemsFailed as error:
            self._end_as(Failure.of(error), log.items)

    def _end_as(self, failure: Failure, items: int) -> None:
        if failure.outcome != "skip":
            self.log.error("The stream failed:\n%s", failure.traceback)
        raise error_of(
            failure,
            f". {items} item(s) are committed and run; clear {self._itself} to go on after them",
        )

    def _require_all_instances(self, ref: StreamRef, log: CommitLog) -> None:
        """
        Do not end before every committed item has its instance: without them the run would end
        green with items missing.
        """
        expected = 1 + log.items
        if count_task_instances(ref.dag_id, ref.run_id, ref.instances_of) >= expected:
            return
        removed = count_task_instances(ref.dag_id, ref.run_id, ref.instances_of, states=["removed"])
        if removed:
            raise ItemsRemoved(
                f"{removed} instance(s) of task {ref.mapped_task_id!r} in DAG {ref.dag_id!r}, run "
                f"{ref.run_id!r}, are REMOVED although their items are committed. Clear the mapped "
                "task as a whole"
            )
        self._requeue()

    def _requeue(self) -> None:
        delay = 0.0 if is_in_process() else settings.requeue_delay()
        raise AirflowRescheduleException(datetime.now(tz=timezone.utc) + timedelta(seconds=delay))
