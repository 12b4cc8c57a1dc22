"""Two streams side by side: an order and the truck that takes it."""

from __future__ import annotations

from typing import Any

import shop_api
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator

with DAG("example_zip_streams", schedule=None, tags=["deferred_expand"]):
    orders = DeferredExpandOperator(
        task_id="orders", source=shop_api.todays_orders, source_kwargs={"count": 4}
    )
    trucks = DeferredExpandOperator(task_id="trucks", source=shop_api.free_trucks)

    @task
    def load(pair: tuple[dict[str, Any], str]) -> str:
        order, truck = pair
        return f"order {order['number']} on {truck}"

    load.expand(pair=orders.output.zip(trucks.output))
