"""Orders of a paged HTTP API, a DAG run for each four of them: for streams of tens of thousands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from airflow.sdk import Param, dag, task

from deferred_expand import Page, StreamWindow, WindowRunOperator, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dag(
    schedule=None,
    params={"url": Param("http://127.0.0.1:8000/orders", type="string")},
    tags=["deferred_expand"],
)
def example_windows() -> None:
    @stream(max_pending=2)
    async def orders(url: str, cursor: int | None = None) -> AsyncIterator[Page]:
        following = cursor or 0
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            while following is not None:
                async with session.get(url, params={"cursor": following}) as answer:
                    page = await answer.json()
                following = page["next"]
                yield Page(page["items"], cursor=following)

    WindowRunOperator.partial(task_id="ship", trigger_dag_id="example_window_of_orders").expand(
        window=orders("{{ params.url }}").window(4)
    )


@dag(schedule=None, tags=["deferred_expand"])
def example_window_of_orders() -> None:
    orders = StreamWindow(task_id="orders").output

    @task
    def ship(order: int) -> int:
        print(f"shipping order {order}")
        return order

    @task
    def report(orders: Any, shipped: Any) -> dict[str, int]:
        return {"orders": len(orders), "shipped": len(shipped)}

    report(orders, ship.expand(order=orders))


example_windows()
example_window_of_orders()
