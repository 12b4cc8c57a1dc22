"""
A chain whose sync halves run on workers, because only the DAG file has what they need.

Shared by the stream head and, when a stream is run again, by the unmapped task.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deferred_expand import settings
from deferred_expand.committing.codec import encode_batches
from deferred_expand.exceptions import SourceFailed
from deferred_expand.shaping.pipeline import shape_batch
from deferred_expand.shaping.steps import find_steps
from deferred_expand.sources.chain import Hop, HopResult, OperatorChain
from deferred_expand.sources.hops import OVER
from deferred_expand.sources.importing import ImportPath, find_function
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.streams.commit_index import batch_name
from deferred_expand.streams.events import BatchEvent, Failure
from deferred_expand.streams.page import Position
from deferred_expand.triggers.hop import HopTrigger
from deferred_expand.workers.alarm import alarm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deferred_expand.committing.store import StreamStore
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.commit_log import CommitLog


class WorkerHops:
    """
    :param source_kwargs: the operator's arguments, rendered.
    :param dag: which has what cannot be imported.
    :param context: of the unmapped task.
    """

    def __init__(
        self,
        definition: StreamDefinition,
        store: StreamStore,
        source_kwargs: dict[str, Any],
        try_number: int,
        dag: Any,
        context: Mapping[str, Any],
    ) -> None:
        self._definition = definition
        self._store = store
        operator: Any = find_function(definition.source, dag)
        self._chain = OperatorChain(operator, source_kwargs, store.ref, try_number, context)
        self._steps = find_steps(definition.steps, dag)
        self._try_number = try_number

    def go_on(self, log: CommitLog, sealed_anew: float | None = None) -> HopTrigger | BatchEvent:
        """What to wait for after the last commit; or, in the beginning, what there is to commit."""
        cursor, waited = log.position.cursor, log.waited_in(self._try_number)
        if isinstance(cursor, str):
            return self._trigger(log, cursor, waited, sealed_anew)
        return self._take(log, log.position, *self._in_time(self._chain.begin, waited))

    def after(self, log: CommitLog, event: dict[str, Any]) -> HopTrigger | BatchEvent:
        """
        The second half of a hop.

        :param event: of a :class:`HopTrigger`.
        :raises SourceFailed: a limit of time has passed.
        """
        waited = event.get("waited", 0.0)
        # Hops that gave nothing have not been committed; what is to be passed over is the last commit's.
        start = log.position if log.position.cursor == event["hop"] else Position(event["hop"])
        if "late" in event:
            raise SourceFailed(event["late"])
        if "over" in event:
            return self._take(log, start, HopResult(event["over"], None), waited)
        if "failed" in event:
            self._chain.fail(*event["failed"])
        hop = Hop.from_cursor(unseal(event["hop"]))
        resume = partial(self._chain.resume, hop, event["event"])
        return self._take(log, start, *self._in_time(resume, waited))

    def seal_anew(self, log: CommitLog, event: dict[str, Any], now: float) -> HopTrigger:
        """The same hop, which a triggerer could not unseal."""
        return self._trigger(log, seal(unseal(event["hop"])), event["waited"], now)

    def _in_time(self, half: Callable[[], HopResult], waited: float) -> tuple[HopResult, float]:
        """:return: what the half of a hop gave, and the seconds that this try has waited by then."""
        limits = self._definition.limits
        left = limits.in_all - waited
        if left <= 0:
            raise limits.timed_out()
        late = SourceFailed(str(limits.page_timed_out())) if limits.for_page < left else limits.timed_out()
        began = time.monotonic()
        with alarm(min(limits.for_page, left), late):
            result = half()
        return result, waited + time.monotonic() - began

    def _trigger(
        self, log: CommitLog, cursor: str, waited: float, sealed_anew: float | None = None
    ) -> HopTrigger:
        source, retry = self._definition.source, self._definition.retry
        return HopTrigger(
            stream=log.stream,
            hop=cursor,
            operator=source.path if isinstance(source, ImportPath) else None,
            retry=retry.to_json() if retry else None,
            limits=asdict(self._definition.limits),
            waited=waited,
            sealed_anew=sealed_anew,
        )

    def _take(
        self, log: CommitLog, start: Position, result: HopResult, waited: float
    ) -> HopTrigger | BatchEvent:
        """
        Stage a hop's items; without any, and with more hops to come, wait for the next one.

        Where the XCom backend raises, the task does, and its ``retries`` make the hop again.

        :param start: where the hop begins, with how many of its items are committed.
        """
        cursor = seal(OVER if result.next is None else result.next.to_cursor())
        items = shape_batch(result.items, self._steps)[start.skip :]
        if not items and result.next is not None:
            return self._trigger(log, cursor, waited)
        writer, error = uuid4().hex[:12], None
        counts: list[int] = []
        size, largest = self._definition.batch_size, settings.max_batch_bytes()
        for first in range(0, len(items), size):
            encoded = encode_batches(items[first : first + size], log.items + first + 1, largest)
            for batch in encoded.batches:
                self._store.write_batch(batch_name(log.batches + len(counts), writer), batch)
                counts.append(len(batch))
            if encoded.error is not None:
                error = encoded.error
                break
        return BatchEvent(
            stream=log.stream,
            writer=writer,
            first=log.batches,
            counts=tuple(counts),
            position=Position(cursor) if error is None else start.after(sum(counts)),
            ended=result.next is None and error is None,
            failure=Failure.of(error) if error is not None else None,
            waited=waited if self._definition.execution_timeout is not None else 0.0,
            at=int(time.time()),
        )
