"""Load a paged API into a table, one mapped task instance per page: natively, and streamed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
from airflow.providers.common.sql.operators.sql import SQLInsertRowsOperator
from airflow.sdk import DAG, Param, task

from deferred_expand import Page
from deferred_expand.demo.airports_api import COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARAMS = {"url": Param("", type="string")}


async def list_airports(url: str, cursor: int | None = None) -> AsyncIterator[Page]:
    """Pages of rows; one item is a whole page of rows, for one insert."""
    number: int | None = cursor or 0
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        while number is not None:
            async with session.get(url, params={"page": number}) as answer:
                page = await answer.json()
            number = page["next"]
            yield Page(items=[page["rows"]], cursor=number)


def insert_into(table: str, rows: Any) -> None:
    SQLInsertRowsOperator.partial(
        task_id="insert", conn_id="airports", table_name=table, columns=COLUMNS
    ).expand(rows=rows)


with DAG("airports_native", schedule=None, params=PARAMS):

    @task
    def airports(url: str) -> list[Any]:
        async def all_pages() -> list[Any]:
            return [item async for page in list_airports(url) for item in page.items]

        return asyncio.run(all_pages())

    insert_into("native", airports("{{ params.url }}"))

with DAG("airports_streamed", schedule=None, params=PARAMS):
    streamed = task.stream(task_id="airports")(list_airports)
    insert_into("streamed", streamed("{{ params.url }}"))
