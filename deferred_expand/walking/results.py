"""What finished items have returned, for a source that goes on from there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from deferred_expand.exceptions import ResultsAwaited
from deferred_expand.walking.pauses import pauses

RESULTS_POLL = 1.0  # seconds between two looks at what is finished, at first
RESULTS_REST = 10  # for so many times as long as a look at the states has taken, there is no other
LONGEST_TRUST = 60.0  # seconds for which a count that stays the same is believed


class FinishedResults(AsyncIterator[Any]):
    """
    The results of finished items in the order in which they are seen to be finished.

    An item that failed, was skipped, or returned nothing gives ``None``. It ends when every item
    that the source has given so far is seen; more can be asked for once it has given more.

    States are looked at only when the number of finished items has changed.

    :param count: how many instances are finished.
    :param finished: which of these map indexes are those of finished instances.
    :param result: of the item with a map index.
    :param given: how many items the source has given. When it is opened again and repeats them, it
        gets the results of those that it has repeated, so that it takes the same way.
    :param hurry: has them made task instances at once.
    :param waits: whether to wait for unfinished items; otherwise ``ResultsAwaited`` is raised.
    :param outside: entered for as long as it is the items that are waited for, and not the source.
    """

    def __init__(
        self,
        count: Callable[[], Awaitable[int]],
        finished: Callable[[Collection[int]], Awaitable[set[int]]],
        result: Callable[[int], Awaitable[Any]],
        given: Callable[[], int],
        hurry: Callable[[], None],
        *,
        waits: bool = True,
        outside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._count = count
        self._finished = finished
        self._result = result
        self._given = given
        self._hurry = hurry
        self._waits = waits
        self._outside = outside
        self._known = 0  # items given when it last looked
        self._unseen: set[int] = set()  # those of them that were not finished
        self._to_give: deque[int] = deque()
        self._counted: int | None = None  # finished instances when their states were last looked at
        self._rests_until = self._trusts_until = 0.0

    def __aiter__(self) -> FinishedResults:
        return self

    async def __anext__(self) -> Any:
        with self._outside():
            return await self._next()

    async def _next(self) -> Any:
        waits = pauses(RESULTS_POLL)
        while not self._to_give:
            self._expect(self._given())
            if not self._unseen:
                raise StopAsyncIteration
            if await self._look():
                waits = pauses(RESULTS_POLL)
            if not self._to_give:
                if not self._waits:
                    raise ResultsAwaited("the source waits for results of its items")
                self._hurry()
                await asyncio.sleep(next(waits))
        return await self._result(self._to_give.popleft())

    def _expect(self, given: int) -> None:
        if given > self._known:
            if self._counted != self._known - len(self._unseen):
                self._counted = None  # of what is given now, or again, some is finished
            self._unseen.update(range(self._known + 1, given + 1))
            self._known = given

    async def _look(self) -> bool:
        """:return: whether anything has changed since the last look."""
        now = asyncio.get_running_loop().time
        await asyncio.sleep(self._rests_until - now())
        count = await self._count()
        if count == self._counted and now() < self._trusts_until:
            return False
        changed, began = count != self._counted, now()
        finished = await self._finished(self._unseen)
        self._counted = count
        self._rests_until = now() + RESULTS_REST * (now() - began)
        self._trusts_until = now() + LONGEST_TRUST
        self._to_give.extend(sorted(finished))
        self._unseen -= finished
        return changed
