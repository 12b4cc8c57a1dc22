"""What the instances that wait for a stream have in common: the head, and the unmapped task when it must."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.bundles import bundle_of
from deferred_expand.airflow_internals.contexts import carry
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import CannotUnseal
from deferred_expand.sources.dag_file import DagFile
from deferred_expand.sources.sealing import key_here, seal, seal_state, unseal
from deferred_expand.streams.commit_log import note_refused
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.streaming import trigger_for
from deferred_expand.workers.hops import WorkerHops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.airflow_internals.sdk import BaseOperator, BaseTrigger
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.streams.control import Control


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
        self.until = 1
        """For how many items a task group has instances when the unmapped task is done."""

    def go_on(self, log: CommitLog, sealed_anew: float | None = None) -> BaseTrigger | BatchEvent:
        """
        What to defer on after the last commit; or what there is to commit at once.

        :param sealed_anew: now, as a trigger has asked for it.
        """
        log = self._seal_anew(log)
        if self._definition.hops_on_worker:
            with self._naming_keys():
                return self._hops().go_on(log, sealed_anew)
        _, failed = log.failed_before or (0, 0)
        expansion = Expansion(
            self._definition,
            self.run_id,
            log.stream,
            self._for_head,
            failed,
            sealed_anew,
            self._dag_file() if self._definition.in_dag_file else None,
            self.until,
        )
        return trigger_for(expansion, self._source_kwargs, carry(self._context), self._task.get_dag())

    def control(self) -> Control:
        """What holds of the stream: as the DAG says, or as a person has written over that."""
        try:
            return self._definition.control.changed_by(self.store.read_control(), self._definition.uncounted)
        except ValueError:
            return self._definition.control  # its trigger says what is wrong

    def _dag_file(self) -> DagFile | None:
        found = bundle_of(self._context)
        return None if found is None else DagFile(*found)

    def after(self, log: CommitLog, event: dict[str, Any]) -> BaseTrigger | BatchEvent:
        """
        The same once a trigger has sent an event.

        :param event: batches; a hop, whose second half is a worker's; or that it cannot unseal what it
            was given.
        """
        if "sealed_elsewhere" in event:
            return self._for_another_key(log, event)
        if "hop" not in event:
            return BatchEvent.from_json(event)
        with self._naming_keys():
            return self._hops().after(log, event)

    def _for_another_key(self, log: CommitLog, event: dict[str, Any]) -> BaseTrigger | BatchEvent:
        """:raises CannotUnseal: it would not help, or the key of the cursor is not here either."""
        anew = self._seal_anew(log)
        if not event["helps"] and anew == log:
            raise CannotUnseal(
                f"{self._definition.where}: the triggerer cannot unseal what this worker has sealed "
                f"(triggerer: {event['sealed_elsewhere']}; worker: {key_here()}). Set the same [core] "
                "fernet_key for workers and triggerers, and clear this instance: the stream goes on where it "
                "was"
            )
        if "hop" not in event or event["hop"] == log.position.cursor:
            return self.go_on(anew, time.time())
        with self._naming_keys():
            return self._hops().seal_anew(anew, event, time.time())

    def _seal_anew(self, log: CommitLog) -> CommitLog:
        """The log with a cursor that needs no key but the first, so that the others may go."""
        cursor = log.position.cursor
        with self._naming_keys():
            if not isinstance(cursor, str) or seal_state(cursor) == "good":
                return log
            anew = replace(log, position=replace(log.position, cursor=seal(unseal(cursor))))
        self.store.write_log(anew)
        return anew

    @contextmanager
    def _naming_keys(self) -> Iterator[None]:
        try:
            yield
        except CannotUnseal as error:
            raise CannotUnseal(
                f"{self._definition.where}: the place that the stream has reached was sealed with a key "
                f"that is gone: {error}. Put that key behind the new one in [core] fernet_key of workers and "
                "triggerers, separated by a comma, and clear this instance: the stream goes on where it was. "
                f"Or clear {self._definition.task_id!r} with its downstream: the stream begins anew"
            ) from error

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
