"""One walk of a source for three tasks: each order, the large ones, and a report that reads them all."""

from __future__ import annotations

from typing import Any

import shop_api
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator

with DAG("example_shaped_stream", schedule=None, tags=["deferred_expand"]):
    orders = DeferredExpandOperator(
        task_id="orders", source=shop_api.todays_orders, source_kwargs={"count": 6}
    )

    @task
    def ship(order: dict[str, Any]) -> int:
        return int(order["number"])

    @task
    def check(number: int) -> int:
        return number

    @task
    def report(orders: Any) -> float:
        return float(sum(order["amount"] for order in orders))

    ship.expand(order=orders.output)
    check.expand(number=orders.output.filter(shop_api.is_large).map(lambda order: order["number"]))
    report(orders.output)
