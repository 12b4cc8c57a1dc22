"""Orders of a paged HTTP API, each through a task group of three tasks, while further pages are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from airflow.sdk import Param, dag, task, task_group

from deferred_expand import Page, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dag(
    schedule=None,
    params={"url": Param("http://127.0.0.1:8000/orders", type="string")},
    # An order's last task before the next one's first, where slots are short.
    default_args={"weight_rule": "upstream"},
    tags=["deferred_expand"],
)
def example_task_group() -> None:
    @stream(max_pending=50)
    async def orders(url: str, cursor: int | None = None) -> AsyncIterator[Page]:
        following = cursor or 0
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            while following is not None:
                async with session.get(url, params={"cursor": following}) as answer:
                    page = await answer.json()
                following = page["next"]
                yield Page(page["items"], cursor=following)

    @task_group
    def fulfil(order: Any) -> Any:
        @task
        def pick(order: Any) -> Any:
            print(f"picking order {order}")
            return order

        @task
        def ship(order: Any) -> Any:
            print(f"shipping order {order}")
            return order

        @task
        def bill(order: Any) -> str:
            return f"order {order}"

        return bill(ship(pick(order)))

    @task
    def report(bills: Any) -> int:
        return len(list(bills))

    report(fulfil.expand(order=orders("{{ params.url }}")))


example_task_group()
