"""One task per order of a paged HTTP API, which start while later pages are still being read."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from deferred_expand import DeferredExpandOperator

with DAG(
    "example_stream_pages",
    schedule=None,
    params={"url": Param("http://127.0.0.1:8000/orders", type="string")},
    tags=["deferred_expand"],
):
    orders = DeferredExpandOperator(
        task_id="orders",
        source="shop_sources:list_orders",
        source_kwargs={"url": "{{ params.url }}"},
        batch_size=2,
    )

    @task
    def ship(order: int) -> int:
        print(f"shipping order {order}")
        return order

    @task
    def report(shipped: Any) -> int:
        return len(list(shipped))

    report(ship.expand(order=orders.output))
