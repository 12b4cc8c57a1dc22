"""What finished items have returned, for a source that goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from deferred_expand.exceptions import ResultsAwaited

RESULTS_POLL = 1.0  # seconds


class FinishedResults(AsyncIterator[Any]):
    """
    The results of finished items in the order in which they are seen to be finished.

    An item that failed, was skipped, or returned nothing gives ``None``. It ends when every item
    that the source has given so far is seen; more can be asked for once it has given more.

    :param finished: map indexes of the item instances that are finished.
    :param result: of the item with a map index.
    :param given: how many items the source has given. When it is opened again and repeats them, it
        gets the results of those that it has repeated, so that it takes the same way.
    :param hurry: has them made task instances at once.
    :param waits: whether to wait for unfinished items; otherwise ``ResultsAwaited`` is raised.
    """

    def __init__(
        self,
        finished: Callable[[], Awaitable[set[int]]],
        result: Callable[[int], Awaitable[Any]],
        given: Callable[[], int],
        hurry: Callable[[], None],
        *,
        waits: bool = True,
    ) -> None:
        self._finished = finished
        self._result = result
        self._given = given
        self._hurry = hurry
        self._waits = waits
        self._seen: set[int] = set()
        self._to_give: list[int] = []

    def __aiter__(self) -> FinishedResults:
        return self

    async def __anext__(self) -> Any:
        while not self._to_give:
            if len(self._seen) >= self._given():
                raise StopAsyncIteration
            await self._look()
            if not self._to_give:
                if not self._waits:
                    raise ResultsAwaited("the source waits for results of its items")
                self._hurry()
                await asyncio.sleep(RESULTS_POLL)
        return await self._result(self._to_give.pop(0))

    async def _look(self) -> None:
        given = self._given()
        new = {number for number in await self._finished() if number <= given} - self._seen
        self._to_give = sorted(new)
        self._seen |= new
