"""A loop: three guesses at a time, until one of them is good enough, or there were enough of them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from airflow.sdk import DAG, task

from deferred_expand import stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

with DAG("example_random_search", schedule=None, tags=["deferred_expand"]):

    @stream
    async def guesses(
        good_enough: float, at_most: int, results: AsyncIterator[float | None]
    ) -> AsyncIterator[float]:
        random = Random(42)
        given: list[float] = []
        scores: list[float] = []
        while max(scores, default=0) < good_enough and len(given) < at_most:
            for _ in range(3):
                given.append(random.random())
                yield given[-1]
            async for score in results:
                scores.append(score or 0)

    @task
    def sell_at(price: float) -> float:
        """How good the price was."""
        return 1 - abs(price - 0.6)

    sell_at.expand(price=guesses(good_enough=0.9, at_most=12))
