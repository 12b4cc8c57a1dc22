"""Many small requests in one task instance: a new try makes those that are not answered, and only those."""

from __future__ import annotations

from typing import Any

import aiohttp
from airflow.sdk import Param, dag, task

from deferred_expand import SourceRetry, iterate


@dag(
    schedule=None,
    params={"url": Param("http://127.0.0.1:8000/orders", type="string"), "orders": Param(20, type="integer")},
    tags=["deferred_expand"],
)
def example_iterate() -> None:
    @task
    def numbers(params: Any = None) -> list[int]:
        return list(range(params["orders"]))

    @task(retries=2)
    async def fetch(number: int, params: Any = None) -> int:
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.get(params["url"], params={"cursor": number}) as answer,
        ):
            return len((await answer.json())["items"])

    @task
    def report(sizes: Any) -> int:
        return sum(sizes)

    report(iterate(fetch, concurrency=10, tolerate="5%", retry=SourceRetry()).over(number=numbers()))


example_iterate()
