"""Group commit: items that end together are written together, by one writer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deferred_expand.iterating.ledger import Ledger, Unwritten

    Write = Callable[[Unwritten, "dict[str, Any] | None"], Awaitable[None]]

logger = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.02  # seconds between two writes: what ends meanwhile shares the second
PROGRESS_INTERVAL = 1.0  # seconds
RETRY_PAUSE = 1.0  # seconds until what could not be written is tried again


class Checkpoints:
    """
    Writes a ledger while items run.

    :param write: the ledger's, not blocking; it is never called twice at once.
    :param interval: seconds for which an item that has ended may stay unwritten; 0: it counts as
        running until it is written.
    :param progress: for people; it is written once a second, at most.
    :param between: what else is to be done then.
    """

    def __init__(
        self,
        ledger: Ledger,
        write: Write,
        interval: float,
        progress: Callable[[], dict[str, Any]],
        between: Callable[[], Awaitable[None]],
    ) -> None:
        self._ledger, self._write, self.interval = ledger, write, interval
        self._progress, self._between = progress, between
        self._passed, self._stop = asyncio.Event(), asyncio.Event()
        self._oldest: float | None = None  # when the first item ended that is not written
        self._told = float("-inf")

    @property
    def holds(self) -> bool:
        """No item may begin: one that has ended is unwritten for too long."""
        late = 0.0 if self._oldest is None else _now() - self._oldest
        return self.interval > 0 and late > self.interval

    async def pass_one(self) -> None:
        """Until there was a checkpoint, or an attempt at one."""
        await self._passed.wait()

    def mark(self) -> None:
        """There is something to be written."""
        if self._oldest is None:
            self._oldest = _now()

    async def note(self, row: int) -> None:
        """With an interval of 0 this returns when the row is written."""
        while not self.interval and self._ledger.written < row:
            await self.pass_one()

    async def run(self) -> None:
        """Write, until :meth:`stop`; what is unwritten then is the caller's to write."""
        stopped = asyncio.ensure_future(self._stop.wait())
        pause = max(self.interval / 2, SHORTEST_PAUSE)
        try:
            while not self._stop.is_set():
                await asyncio.wait({stopped}, timeout=pause)
                if not await self._pass() and not self._stop.is_set():
                    await asyncio.wait({stopped}, timeout=RETRY_PAUSE)
        finally:
            stopped.cancel()

    def stop(self) -> None:
        """Not in the middle of a write."""
        self._stop.set()

    async def _pass(self) -> bool:
        """:return: whether it could be written."""
        tells = _now() - self._told >= PROGRESS_INTERVAL
        try:
            if tells or self._ledger.unwritten:
                await self._write_now(self._progress() if tells else None)
            if tells:
                self._told = _now()
                await self._between()
            return True
        except Exception as error:
            logger.warning(
                "What has ended cannot be written down (%s): no other item begins until it can", error
            )
            return False
        finally:
            passed, self._passed = self._passed, asyncio.Event()
            passed.set()

    async def _write_now(self, progress: dict[str, Any] | None) -> None:
        at = _now()
        unwritten = self._ledger.take_unwritten()
        await self._write(unwritten, progress)
        self._ledger.note_written(unwritten)
        self._oldest = at if self._ledger.unwritten else None


def _now() -> float:
    return asyncio.get_running_loop().time()
