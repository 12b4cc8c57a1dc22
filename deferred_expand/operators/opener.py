"""What the unmapped task does: it opens the stream, and walks it where no stream head does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deferred_expand.airflow_internals.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
    count_task_instances,
)
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import SourceFailed, StreamError
from deferred_expand.operators.reader import come_back_unless_over
from deferred_expand.sources.arguments import mask
from deferred_expand.sources.opening import is_operator
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import BatchEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.committing.store import StreamRef
    from deferred_expand.operators.worker_hops import WorkerHops
    from deferred_expand.sources.opening import Source
    from deferred_expand.streams.events import Failure
    from deferred_expand.triggers.hop import HopTrigger
    from deferred_expand.triggers.streaming import StreamingExpansionTrigger


class StreamHandle(list[Any]):
    """
    What the unmapped task returns: one JSON object, with the length that the mapped task shall have.

    The SDK stores ``len()`` of what it pushes as the mapped length
    (airflow/sdk/execution_time/task_runner.py, ``_push_xcom_if_needed``).
    """

    def __init__(self, description: dict[str, Any], mapped_length: int) -> None:
        super().__init__([description])
        self._mapped_length = mapped_length

    def __len__(self) -> int:
        return self._mapped_length


def error_of(failure: Failure, hint: str = "") -> Exception:
    """How a task ends whose source could not go on."""
    if failure.outcome == "skip":
        return AirflowSkipException(failure.message)
    message = failure.message + hint
    return AirflowFailException(message) if failure.outcome == "fail" else SourceFailed(message)


class StreamOpener(BaseOperator):
    """The part of :class:`~deferred_expand.DeferredExpandOperator` that runs on workers."""

    source: str
    source_object: Source
    source_kwargs: dict[str, Any]

    @property
    def where(self) -> str:
        """For messages."""
        raise NotImplementedError

    @property
    def hops_on_worker(self) -> bool:
        """Whether the hops of an operator as a source run where the DAG file is."""
        raise NotImplementedError

    @property
    def parents(self) -> Sequence[StreamOpener]:
        """Streams that this one is made of."""
        return ()

    def stream_ref(self, context: Any) -> StreamRef:
        """Which stream it is, in the run of the context."""
        raise NotImplementedError

    def trigger(
        self, ref: StreamRef, stream: str, source_kwargs: dict[str, Any], *, for_head: bool
    ) -> StreamingExpansionTrigger:
        """What walks the source on from the last commit, with arguments rendered by whoever waits."""
        raise NotImplementedError

    def worker_hops(self, store: StreamStore, source_kwargs: dict[str, Any], try_number: int) -> WorkerHops:
        """The same where hops run on workers."""
        raise NotImplementedError

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        super().render_template_fields(context, jinja_env)
        mask(self.source_kwargs)

    def execute(self, context: Any) -> StreamHandle:
        """Open the stream anew; what an earlier run of this task left is gone by now."""
        ref = self.stream_ref(context)
        if is_operator(self.source_object):
            where = (
                "on workers: only the DAG file has the operator, or a function it is given"
                if self.hops_on_worker
                else "in the triggerer"
            )
            self.log.info("The hops of %s run %s", self.source, where)
        log = CommitLog(stream=uuid4().hex)
        StreamStore(ref).write_log(log)
        if ref.mapped_task_id is None:
            for parent in self.parents:
                come_back_unless_over(StreamStore(parent.stream_ref(context)))
            return self._go_on(context, log, until=None)
        existing = count_task_instances(ref.dag_id, ref.run_id, ref.mapped_task_id)
        return self._go_on(context, log, until=existing - 1)

    def commit(self, context: Any, event: dict[str, Any], until: int | None = 0) -> StreamHandle:
        """
        Commit batches where no stream head does: before the mapped task of a stream that is run
        again starts, and to the end of a stream that no task is expanded over.

        :param until: how many item instances are left of the earlier run; ``None``: to the end.
        """
        return self._commit(context, BatchEvent.from_json(event), until)

    def after_hop(self, context: Any, event: dict[str, Any], until: int | None = 0) -> StreamHandle:
        """The same, where the second half of a hop is a worker's."""
        store = StreamStore(self.stream_ref(context))
        log = store.read_log()
        if log is None or log.stream != event["stream"]:
            raise StreamError(f"{self.where}: another try of the task has opened the stream anew")
        return self._take(context, self._hops(context).after(log, event), until)

    def _hops(self, context: Any) -> WorkerHops:
        store = StreamStore(self.stream_ref(context))
        return self.worker_hops(store, self.source_kwargs, context["ti"].try_number)

    def _take(self, context: Any, outcome: HopTrigger | BatchEvent, until: int | None) -> StreamHandle:
        if isinstance(outcome, BatchEvent):
            return self._commit(context, outcome, until)
        self.defer(trigger=outcome, method_name="after_hop", kwargs={"until": until})

    def _commit(self, context: Any, event: BatchEvent, until: int | None) -> StreamHandle:
        store = StreamStore(self.stream_ref(context))
        log = store.read_log()
        plan = plan_commit(log, event, context["ti"].try_number) if log else None
        if log is None or log.stream != event.stream:
            raise StreamError(f"{self.where}: another try of the task has opened the stream anew")
        if plan is None:  # committed by the expander, or another triggerer has gone on
            return self._go_on(context, log, until)
        store.write(plan)
        return self._go_on(context, plan.log, until)

    def _go_on(self, context: Any, log: CommitLog, until: int | None) -> StreamHandle:
        """
        Return the length of the mapped task once that marks no instance wrongly REMOVED.

        A length below that of an earlier run marks the instances above it REMOVED, and growth never
        brings them back (airflow/models/dagrun.py, ``_revise_map_indexes_if_mapped``). What those
        have returned in the earlier run would still count as results of the mapped task.
        """
        ref = self.stream_ref(context)
        if log.failure is not None:
            if log.failure.outcome != "skip":
                self.log.error("The source failed:\n%s", log.failure.traceback)
            raise error_of(log.failure)
        if not log.ended and (until is None or log.items < until):
            if until is not None:
                self.log.info("%d of %d items of the earlier run are there again", log.items, until)
            if self.hops_on_worker:
                return self._take(context, self._hops(context).go_on(log), until)
            trigger = self.trigger(ref, log.stream, self.source_kwargs, for_head=False)
            self.defer(trigger=trigger, method_name="commit", kwargs={"until": until})
        StreamStore(ref).forget_results(log.items + 1, until or 0)
        description = {"stream_of": self.source, "mapped_task": ref.mapped_task_id}
        return StreamHandle(description, mapped_length=1 + log.items)
