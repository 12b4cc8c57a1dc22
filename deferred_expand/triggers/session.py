"""One trigger's part of a stream: it holds the walk, and hands over what is staged."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from typing import TYPE_CHECKING

from deferred_expand import settings
from deferred_expand.airflow_internals.comms import task_instance_state
from deferred_expand.committing.board import CommitBoard, installed_board
from deferred_expand.committing.store import StreamStore
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.calls import call_in_thread
from deferred_expand.triggers.ending import end_of_stream
from deferred_expand.triggers.handover import COMMIT_PATIENCE, ExpanderHandover, Overtaken
from deferred_expand.triggers.sealed import require_seal
from deferred_expand.walking.registry import WalkRegistry
from deferred_expand.walking.walk import WalkClosed

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from deferred_expand.airflow_internals.sdk import TriggerEvent
    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.triggers.expansion import Expansion
    from deferred_expand.triggers.walks import WalkOpener
    from deferred_expand.walking.walk import Walk

log = logging.getLogger(__name__)

OVERTAKEN_PAUSE = 5.0  # seconds; a triggerer whose trigger was taken over is told within this time

# States of an instance whose walk is worth keeping: it waits, or is about to.
_WANTED_STATES = frozenset({"deferred", "scheduled", "queued", "running", "up_for_reschedule"})

_walks = WalkRegistry()


class StreamSession:
    """:param opener: of the stream's walk, where there is none to join."""

    def __init__(self, expansion: Expansion, opener: WalkOpener) -> None:
        self._expansion = expansion
        self._opener = opener
        self._store = StreamStore(expansion.ref)
        self._walk: Walk | None = None

    async def walk_inline(self) -> BatchEvent:
        """In ``dag.test()`` only a trigger's first event counts, and nothing runs beside it."""
        committed = await self._read_log()
        if committed is None:
            return BatchEvent.empty(self._expansion.stream)
        walk = self._opener.open(committed, limited=False)
        walk.start()
        try:
            return await walk.all_batches()
        finally:
            await walk.close()

    async def walk_on(self, try_number: int) -> BatchEvent | TriggerEvent:
        """
        Walk and hand over until the head can end, or a worker is needed.

        :param try_number: of whoever waits.
        :return: what ends the head, or what a worker shall commit.
        :raises SealedElsewhere: the cursor.
        """
        send_at = asyncio.get_running_loop().time() + settings.requeue_delay()
        while True:
            committed = await self._read_log()
            if committed is None:
                return BatchEvent.empty(self._expansion.stream)
            if committed.ended and self._expansion.for_expander:
                return await end_of_stream(self._expansion, committed)
            await call_in_thread(require_seal, committed.position.cursor, self._expansion.sealed_anew)
            try:
                async with self._hold_walk(committed, try_number) as walk:
                    self._walk = walk
                    handover = self._handover()
                    ended = await handover.run(walk) if handover else None
                    if ended is None:
                        return await walk.batches_until(send_at)
                return await end_of_stream(self._expansion, ended)
            except (Overtaken, WalkClosed):
                log.warning("Another triggerer has gone on with this stream; this walk stops")
                await asyncio.sleep(OVERTAKEN_PAUSE)

    async def _read_log(self) -> CommitLog | None:
        """``None`` when the stream this trigger is for is no more: it was cleared meanwhile."""
        committed = await call_in_thread(self._store.read_log)
        return committed if committed and committed.stream == self._expansion.stream else None

    def _handover(self) -> ExpanderHandover | None:
        """``None``: batches go to a worker."""
        expansion, definition = self._expansion, self._expansion.definition
        if not expansion.for_expander or definition.materialize == "callback":
            return None
        board = installed_board()
        fall_back = definition.materialize == "auto"
        if board is None or not board.is_alive:
            if fall_back:
                return None
            log.warning(
                "The stream of task %r waits for an expander, and this triggerer has none: see "
                "materialize and [deferred_expand] expander", definition.task_id,
            )  # fmt: skip
        return ExpanderHandover(
            board or CommitBoard(),
            expansion.ref,
            lambda announcement: call_in_thread(self._store.announce, announcement),
            self._read_log,
            most_items=settings.max_map_length() - 1 if expansion.for_head else sys.maxsize,
            patience=COMMIT_PATIENCE if fall_back else math.inf,
        )

    def _hold_walk(self, committed: CommitLog, try_number: int) -> AbstractAsyncContextManager[Walk]:
        return _walks.hold(
            (self._expansion.ref, self._expansion.for_head),
            try_number,
            committed.checkpoint,
            lambda: self._opener.open(committed, waited=committed.waited_in(try_number)),
            self._is_wanted,
            settings.idle_timeout(),
        )

    async def _is_wanted(self) -> bool:
        """Someone waits for the stream, and it has not gone on without this walk."""
        ref = self._expansion.ref
        waits = ref.walker if self._expansion.for_head else (ref.task_id, -1)
        state = await call_in_thread(task_instance_state, ref.dag_id, ref.run_id, *waits)
        if state not in _WANTED_STATES or self._walk is None:
            return False
        committed = await self._read_log()
        return committed is not None and self._walk.goes_on_from(committed.checkpoint)
