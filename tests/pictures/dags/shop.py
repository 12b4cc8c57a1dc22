"""A shop that has much to do while pictures are taken of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator, Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGES, SIZE = 60, 25


async def list_orders(cursor: int = 0) -> AsyncIterator[Page]:
    for number in range(cursor or 0, PAGES):
        await asyncio.sleep(2 if number % 7 else 5)
        first = number * SIZE
        yield Page([{"order": n, "parcels": n % 3} for n in range(first, first + SIZE)], cursor=number + 1)


def has_parcels(order: dict[str, Any]) -> bool:
    return bool(order["parcels"])


class Ship(EmptyOperator):
    """Starts no worker."""

    def __init__(self, *, order: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order


with DAG("shop", schedule=None):
    orders = DeferredExpandOperator(
        task_id="orders", source=list_orders, max_pending=400, max_items=900, batch_interval=2
    )
    Ship.partial(task_id="ship").expand(order=orders.output.filter(has_parcels))

with DAG("returns", schedule=None):
    returns = DeferredExpandOperator(task_id="returns", source=list_orders, rate_limit=2)

    @task
    def refund(order: dict[str, Any]) -> int:
        if order["order"] % 9 == 4:
            raise ValueError(f"order {order['order']} was never paid")
        return int(order["order"])

    refund.expand(order=returns.output)
