"""Two orders under way at most: the source is asked for the next when one of them is done."""

from __future__ import annotations

from typing import Any

import shop_api
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator

with DAG("example_back_pressure", schedule=None, tags=["deferred_expand"]):
    orders = DeferredExpandOperator(
        task_id="orders",
        source=shop_api.todays_orders,
        source_kwargs={"count": 6},
        max_pending=2,
    )

    @task
    def ship(order: dict[str, Any]) -> int:
        return int(order["number"])

    ship.expand(order=orders.output)
