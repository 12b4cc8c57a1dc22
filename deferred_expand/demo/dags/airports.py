"""Load a paged API into a table, one mapped task instance per page: natively, and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow.providers.common.sql.operators.sql import SQLInsertRowsOperator
from airflow.sdk import DAG, Param, task

from deferred_expand import DeferredExpandOperator
from deferred_expand.demo.airports_api import COLUMNS
from deferred_expand.demo.sources import list_airports

PARAMS = {"url": Param("", type="string")}

with DAG("airports_native", schedule=None, params=PARAMS):

    @task
    def airports(url: str) -> list[Any]:
        async def all_pages() -> list[Any]:
            return [item async for page in list_airports(url) for item in page.items]

        return asyncio.run(all_pages())

    SQLInsertRowsOperator.partial(
        task_id="insert", conn_id="airports", table_name="native", columns=COLUMNS
    ).expand(rows=airports("{{ params.url }}"))

with DAG("airports_streamed", schedule=None, params=PARAMS):
    pages = DeferredExpandOperator(
        task_id="airports",
        source="deferred_expand.demo.sources:list_airports",
        source_kwargs={"url": "{{ params.url }}"},
    )
    SQLInsertRowsOperator.partial(
        task_id="insert", conn_id="airports", table_name="streamed", columns=COLUMNS
    ).expand(rows=pages.output)
