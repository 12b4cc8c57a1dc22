"""A source written in the DAG file: orders of a paged HTTP API, shipped while later pages are still read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from airflow.sdk import Param, dag, task

from deferred_expand import Page, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dag(
    schedule=None,
    params={"url": Param("http://127.0.0.1:8000/orders", type="string")},
    tags=["deferred_expand"],
)
def example_task_stream() -> None:
    @stream(max_pending=50)
    async def orders(url: str, cursor: int | None = None) -> AsyncIterator[Page]:
        following = cursor or 0
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            while following is not None:
                async with session.get(url, params={"cursor": following}) as answer:
                    page = await answer.json()
                following = page["next"]
                yield Page(page["items"], cursor=following)

    @task
    def ship(order: int) -> int:
        print(f"shipping order {order}")
        return order

    @task
    def report(shipped: Any) -> int:
        return len(list(shipped))

    report(ship.expand(order=orders("{{ params.url }}").filter(lambda order: order != 3)))


example_task_stream()
