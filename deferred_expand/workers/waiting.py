"""What the instances that wait for a stream have in common: the head, and the unmapped task when it must."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.contexts import carry
from deferred_expand.committing.store import StreamStore
from deferred_expand.streams.commit_log import note_refused
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.streaming import trigger_for
from deferred_expand.workers.hops import WorkerHops

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.sdk import BaseOperator, BaseTrigger
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.commit_log import CommitLog


class StreamWait:
    """
    One instance's wait for a stream of its run.

    :param task: what the instance executes; its ``commit`` is called with what a trigger hands over.
    :param source_kwargs: the source's arguments, rendered.
    :param context: of the unmapped task.
    """

    def __init__(
        self,
        task: BaseOperator,
        definition: StreamDefinition,
        source_kwargs: dict[str, Any],
        context: Any,
        *,
        for_head: bool,
    ) -> None:
        self.try_number: int = context["ti"].try_number
        self.run_id: str = context["ti"].run_id
        self.ref = definition.ref(self.run_id)
        self.store = StreamStore(self.ref)
        self._task = task
        self._definition = definition
        self._source_kwargs = source_kwargs
        self._for_head = for_head
        self._context = context

    def go_on(self, log: CommitLog) -> BaseTrigger | BatchEvent:
        """What to defer on after the last commit; or what there is to commit at once."""
        if self._definition.hops_on_worker:
            return self._hops().go_on(log)
        _, failed = log.failed_before or (0, 0)
        expansion = Expansion(self._definition, self.run_id, log.stream, self._for_head, failed)
        return trigger_for(expansion, self._source_kwargs, carry(self._context))

    def after(self, log: CommitLog, event: dict[str, Any]) -> BaseTrigger | BatchEvent:
        """
        The same once a trigger has sent an event.

        :param event: batches; or a hop, whose second half is a worker's.
        """
        return self._hops().after(log, event) if "hop" in event else BatchEvent.from_json(event)

    def note_refused(self, log: CommitLog, event: BatchEvent) -> None:
        """The stream has gone on without these batches: they are to be deleted at its end."""
        noted = note_refused(log, event)
        if noted is not None:
            self.store.write_log(noted)

    def _hops(self) -> WorkerHops:
        return WorkerHops(
            self._definition,
            self.store,
            self._source_kwargs,
            self.try_number,
            self._task.get_dag(),
            self._context,
        )
