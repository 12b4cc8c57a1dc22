"""Back pressure: when the next items may be asked for, and when they may become instances."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from deferred_expand.walking.pauses import pauses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FINISHED_POLL = 1.0  # seconds between two looks at how many instances are finished, at first
BURST = 0.5  # seconds' worth of items that come at once under a rate limit, at most if they come late
_A_BIT = 1e-6  # of an item
_NO_LIMIT = 2**62


class Pace:
    """
    What it is made with may be changed while the walk is under way.

    :param max_pending: items given or staged, but not finished, at which the walk pauses.
    :param rate_limit: items per second.
    :param finished: counts the finished ones.
    """

    def __init__(
        self,
        max_pending: int | None = None,
        rate_limit: float | None = None,
        finished: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self.paused = False
        self._max_pending = max_pending
        self._rate_limit = rate_limit
        self._count_finished = finished
        self._finished = 0
        self._allowed = 0.0
        self._counted_at: float | None = None
        self._changed = asyncio.Event()  # wakes who waits by what was said before

    def change(self, *, paused: bool, max_pending: int | None, rate_limit: float | None) -> None:
        """From now on; who waits is woken."""
        if rate_limit != self._rate_limit and self._counted_at is not None:
            now = asyncio.get_running_loop().time()
            if self._rate_limit is not None:
                saved = self._allowance(self._rate_limit, self._counted_at)
                self._allowed = min(saved, max(1.0, (rate_limit or 0.0) * BURST))
            self._counted_at = now
        self.paused, self._max_pending, self._rate_limit = paused, max_pending, rate_limit
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def holds_source(self) -> bool:
        """Whether the source may have to wait before it is asked for more."""
        return self.paused or self._max_pending is not None

    async def until_wanted(self, given: int) -> None:
        """
        Wait until the source may be asked for more.

        :param given: items that it has given so far.
        """
        while self.holds_source:
            await self.while_paused()
            await self._room_for_pending(given)
            if not self.paused:
                return

    async def while_paused(self) -> None:
        while self.paused:
            await self._changed.wait()

    def allows(self, items: int, since: float) -> int:
        """
        How many may be staged at this moment, as far as is known without asking.

        :param items: staged so far.
        :param since: when the next one came, in the loop's time.
        """
        if self.paused:
            return 0
        room = _NO_LIMIT
        if self._max_pending is not None:
            room = max(0, self._max_pending - (items - self._finished))
        if self._rate_limit is not None:
            room = min(room, int(self._allowance(self._rate_limit, since) + _A_BIT))
        return room

    def holds_back(
        self, staged: int, given: int, pulled: int, since: float | None
    ) -> Literal["max_pending", "rate_limit"] | None:
        """
        What limit, as far as is known without asking.

        :param staged: items so far.
        :param given: by the source so far.
        :param pulled: that are not staged.
        :param since: when the first of those came, in the loop's time.
        """
        if self._max_pending is not None and max(given, staged + 1) - self._finished >= self._max_pending:
            return "max_pending"
        if self._rate_limit is not None and since is not None:
            return "rate_limit" if self._allowance(self._rate_limit, since) < pulled else None
        return None

    async def room(self, items: int, wanted: int, since: float) -> int:
        """
        Wait until items may be staged; returns how many of those that are wanted.

        :param items: staged so far.
        :param since: when the first of them came, in the loop's time.
        """
        while True:
            await self.while_paused()
            room = min(wanted, await self._room_for_pending(items))
            if self.paused or not await self._has_allowance(room, since):
                continue  # what holds has changed meanwhile
            return room if self._rate_limit is None else self._take_allowance(room, self._rate_limit, since)

    async def _room_for_pending(self, items: int) -> int:
        waits = pauses(FINISHED_POLL)
        while self._max_pending is not None and self._count_finished is not None:
            room = self._max_pending - (items - self._finished)
            if room > 0:
                return room
            before, changed = self._finished, self._changed
            self._finished = min(items, await self._count_finished())
            if self._finished == before and await _sleep(next(waits), changed):
                waits = pauses(FINISHED_POLL)
        return _NO_LIMIT

    async def _has_allowance(self, wanted: int, since: float) -> bool:
        """Wait for it; ``False``: another one holds by now."""
        rate = self._rate_limit
        if rate is None:
            return True
        at_once = max(1.0, min(wanted, rate * BURST))
        while (allowance := self._allowance(rate, since)) < at_once - _A_BIT:
            if await _sleep((at_once - allowance) / rate, self._changed):
                return False
        return True

    def _take_allowance(self, wanted: int, rate: float, since: float) -> int:
        allowance = self._allowance(rate, since)
        taken = min(wanted, max(1, int(allowance + _A_BIT)))
        self._allowed, self._counted_at = allowance - taken, asyncio.get_running_loop().time()
        return taken

    def _allowance(self, rate: float, since: float) -> float:
        """Items wait for their turn however long they must; what nobody wanted is not saved up."""
        now = asyncio.get_running_loop().time()
        if self._counted_at is None:
            return 1 + rate * (now - since)
        idle = max(0.0, since - self._counted_at)
        saved = max(self._allowed, min(self._allowed + idle * rate, max(1.0, rate * BURST)))
        return saved + rate * (now - max(since, self._counted_at))


async def _sleep(seconds: float, changed: asyncio.Event) -> bool:
    """:return: whether something has changed before they are over."""
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True
