"""Where a task group is expanded over a stream: when it grows, and when whoever waits for that is done."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from deferred_expand.committing.board import installed_board
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.handover import BOARD_POLL, REPEAT, Overtaken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deferred_expand.committing.board import CommitBoard
    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.triggers.expansion import Expansion
    from deferred_expand.triggers.handover import ExpanderHandover
    from deferred_expand.walking.walk import Walk

log = logging.getLogger(__name__)


def grows(expansion: Expansion, committed: CommitLog) -> bool:
    """
    Whether the expander makes the group's instances, or is about to, while the stream is walked.

    Once it has begun nobody else can go on: the scheduler starts what it makes without looking at
    dependencies. Where it does not, the unmapped task pushes the length when the stream has ended, Airflow
    expands the group by that, and the head finds all of it grown.
    """
    if committed.grown is not None:
        return True
    board = installed_board()
    definition = expansion.definition
    may = definition.materialize != "callback" and not definition.hops_on_worker
    return may and board is not None and board.grows_groups


def is_done(expansion: Expansion, committed: CommitLog) -> bool:
    """
    Whether the instance that waits need not wait any more.

    The head: until all has its instances. The unmapped task: until the first have, or as many as an earlier
    run has left; what is committed without the expander it pushes the length of, at the end.
    """
    if committed.ended and not committed.is_behind:
        return True
    if expansion.for_head:
        return False
    if committed.grown is None:
        return committed.ended and not grows(expansion, committed)
    return committed.grown >= expansion.until


class Growth:
    """
    Hands over what a walk has staged, and follows how the group grows.

    :param read_log: the stream's commit log.
    """

    def __init__(
        self,
        expansion: Expansion,
        board: CommitBoard,
        handover: ExpanderHandover,
        read_log: Callable[[], Awaitable[CommitLog | None]],
    ) -> None:
        self._expansion = expansion
        self._board = board
        self._handover = handover
        self._read_log = read_log

    async def run(self, walk: Walk) -> CommitLog | None:
        """
        :return: the log when whoever waits is done; ``None`` when a worker must look.
        :raises Overtaken: someone else has committed what this walk does not hold.
        """
        handing_over = asyncio.ensure_future(self._handover.run(walk))
        try:
            return await self._follow(handing_over)
        finally:
            handing_over.cancel()
            await asyncio.gather(handing_over, return_exceptions=True)

    async def _follow(self, handing_over: asyncio.Future[CommitLog | None]) -> CommitLog | None:
        told_at = 0.0
        while True:
            seen = self._board.commits(self._expansion.board_name)
            committed = await self._read_log()
            if committed is None:
                raise Overtaken
            if is_done(self._expansion, committed):
                return committed
            if handing_over.done() and handing_over.result() is None:
                return None
            idle = handing_over.done() or not told_at
            if idle and committed.is_behind and time.monotonic() - told_at > REPEAT:
                # What was announced last may be gone with an earlier try of the instance that waits.
                await self._handover.tell(BatchEvent.empty(committed.stream))
                told_at = time.monotonic()
            await self._until_news(seen, handing_over)

    async def _until_news(self, seen: int, handing_over: asyncio.Future[CommitLog | None]) -> None:
        was_done, look_at = handing_over.done(), time.monotonic() + REPEAT
        while self._board.commits(self._expansion.board_name) == seen and time.monotonic() < look_at:
            await asyncio.sleep(BOARD_POLL)
            if handing_over.done() and not was_done:
                return
