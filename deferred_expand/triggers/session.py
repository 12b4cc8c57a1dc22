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
from deferred_expand.triggers.control import ControlReader
from deferred_expand.triggers.ending import end_of_stream
from deferred_expand.triggers.growing import Growth, grows, is_done
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
            if self._is_done(committed):
                return await end_of_stream(self._expansion, committed)
            await call_in_thread(require_seal, committed.position.cursor, self._expansion.sealed_anew)
            control = ControlReader(self._expansion, self._store, items_run=self._items_run(committed))
            await control.read()
            try:
                async with self._hold_walk(committed, try_number, control) as walk, control.obeyed_by(walk):
                    self._walk = walk
                    handover = self._handover(committed)
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

    def _is_done(self, committed: CommitLog) -> bool:
        if self._expansion.definition.group is not None:
            return is_done(self._expansion, committed)
        return committed.ended and self._expansion.for_expander

    def _items_run(self, committed: CommitLog) -> bool:
        """While the stream is walked, and not when it has ended."""
        return self._expansion.definition.group is None or grows(self._expansion, committed)

    def _handover(self, committed: CommitLog) -> ExpanderHandover | Growth | None:
        """``None``: batches go to a worker."""
        expansion, definition = self._expansion, self._expansion.definition
        has_grown = committed.grown is not None
        if not expansion.for_expander or (definition.materialize == "callback" and not has_grown):
            return None
        board = installed_board()
        fall_back = definition.materialize == "auto" and not has_grown
        if board is None or not board.is_alive:
            if fall_back:
                return None
            log.warning(
                "The stream of task %r waits for an expander, and this triggerer has none: see "
                "materialize and [deferred_expand] expander", definition.task_id,
            )  # fmt: skip
        board = board or CommitBoard()
        has_instances = expansion.for_head or definition.group is not None
        handover = ExpanderHandover(
            board,
            expansion,
            lambda announcement: call_in_thread(self._store.announce, announcement, expansion.waiter),
            self._read_log,
            most_items=settings.max_map_length() - expansion.ref.heads if has_instances else sys.maxsize,
            patience=COMMIT_PATIENCE if fall_back else math.inf,
        )
        return Growth(expansion, board, handover, self._read_log) if definition.group else handover

    def _hold_walk(
        self, committed: CommitLog, try_number: int, control: ControlReader
    ) -> AbstractAsyncContextManager[Walk]:
        expansion, items_run = self._expansion, self._items_run(committed)
        # The head beside a group goes on with the walk of the unmapped task.
        of_head = items_run if expansion.definition.group else expansion.for_head
        waited = committed.waited_in(try_number)

        def open_walk() -> Walk:
            walk = self._opener.open(committed, items_run=items_run, waited=waited)
            control.tell(walk)
            return walk

        return _walks.hold(
            (expansion.ref, of_head),
            try_number,
            committed.checkpoint,
            open_walk,
            self._is_wanted,
            settings.idle_timeout(),
        )

    async def _is_wanted(self) -> bool:
        """Someone waits for the stream, and it has not gone on without this walk."""
        if self._walk is None or not await self._is_waited_for():
            return False
        committed = await self._read_log()
        return committed is not None and self._walk.goes_on_from(committed.checkpoint)

    async def _is_waited_for(self) -> bool:
        expansion, instance = self._expansion, (self._expansion.ref.dag_id, self._expansion.ref.run_id)
        state = await call_in_thread(task_instance_state, *instance, *expansion.waiter)
        if expansion.definition.group is not None and not expansion.for_head and state == "success":
            state = await call_in_thread(task_instance_state, *instance, *expansion.ref.walker)
            return state is None or state in _WANTED_STATES  # the head is about to start
        return state in _WANTED_STATES
