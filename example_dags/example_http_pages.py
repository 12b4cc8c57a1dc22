"""``HttpOperator`` streamed: a task per order starts while later pages are still being asked for."""

from __future__ import annotations

import shop_api
from airflow.providers.http.operators.http import HttpOperator
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator

with DAG("example_http_pages", schedule=None, tags=["deferred_expand"]):
    orders = DeferredExpandOperator(
        task_id="orders",
        source=HttpOperator,
        source_kwargs={
            "http_conn_id": "shop",
            "endpoint": "orders",
            "method": "GET",
            "pagination_function": shop_api.next_page,
            "response_filter": shop_api.orders_of,
        },
    )

    @task
    def ship(order: int) -> int:
        return order

    ship.expand(order=orders.output)
