"""Back pressure: when the next items may be asked for, and when they may become instances."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from deferred_expand.walking.pauses import pauses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FINISHED_POLL = 1.0  # seconds between two looks at how many instances are finished, at first
BURST = 0.5  # seconds' worth of items that come at once under a rate limit, at most if they come late
_A_BIT = 1e-6  # of an item


class Pace:
    """
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
        self._max_pending = max_pending
        self._rate_limit = rate_limit
        self._count_finished = finished
        self._finished = 0
        self._allowed = 0.0
        self._counted_at: float | None = None

    async def until_wanted(self, given: int) -> None:
        """
        Wait until the source may be asked for more.

        :param given: items that it has given so far.
        """
        await self._room_for_pending(given)

    def allows(self, items: int, since: float) -> int:
        """
        How many may be staged at this moment, as far as is known without asking.

        :param items: staged so far.
        :param since: when the next one came, in the loop's time.
        """
        room = 2**62
        if self._max_pending is not None:
            room = max(0, self._max_pending - (items - self._finished))
        if self._rate_limit is not None:
            room = min(room, int(self._allowance(self._rate_limit, since) + _A_BIT))
        return room

    async def room(self, items: int, wanted: int, since: float) -> int:
        """
        Wait until items may be staged; returns how many of those that are wanted.

        :param items: staged so far.
        :param since: when the first of them came, in the loop's time.
        """
        room = min(wanted, await self._room_for_pending(items))
        if self._rate_limit is not None:
            room = await self._take_allowance(room, self._rate_limit, since)
        return room

    async def _room_for_pending(self, items: int) -> int:
        if self._max_pending is None or self._count_finished is None:
            return 2**62
        waits = pauses(FINISHED_POLL)
        while (room := self._max_pending - (items - self._finished)) <= 0:
            before = self._finished
            self._finished = min(items, await self._count_finished())
            if self._finished == before:
                await asyncio.sleep(next(waits))
        return room

    async def _take_allowance(self, wanted: int, rate: float, since: float) -> int:
        at_once = max(1.0, min(wanted, rate * BURST))
        while True:
            allowance = self._allowance(rate, since)
            if allowance >= at_once - _A_BIT:
                break
            await asyncio.sleep((at_once - allowance) / rate)
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
