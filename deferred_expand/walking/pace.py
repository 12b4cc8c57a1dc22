"""Back pressure: when the next items may be asked for, and when they may become instances."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from deferred_expand.walking.pauses import pauses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FINISHED_POLL = 1.0  # seconds between two looks at how many instances are finished, at first
BURST = 0.5  # seconds' worth of items that come at once under a rate limit


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

    async def room(self, items: int, wanted: int) -> int:
        """
        Wait until items may be staged; returns how many of those that are wanted.

        :param items: staged so far.
        """
        room = min(wanted, await self._room_for_pending(items))
        if self._rate_limit is not None:
            room = await self._take_allowance(room, self._rate_limit)
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

    async def _take_allowance(self, wanted: int, rate: float) -> int:
        now = asyncio.get_running_loop().time
        at_once = max(1.0, min(wanted, rate * BURST))
        while True:
            since = now() - self._counted_at if self._counted_at is not None else 1 / rate
            self._counted_at = now()
            self._allowed = min(self._allowed + since * rate, max(1.0, rate * BURST))
            if self._allowed >= at_once - 1e-6:
                break
            await asyncio.sleep((at_once - self._allowed) / rate)
        taken = min(wanted, max(1, int(self._allowed + 1e-6)))
        self._allowed -= taken
        return taken
