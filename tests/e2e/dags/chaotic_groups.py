"""A task group that grows, whose tasks write down that they were here."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, task_group

from deferred_expand import Page, stream
from tests.chaos.operators import WriteDownOperator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRIES: Any = {"retries": 10, "retry_delay": timedelta(seconds=1)}
PARAMS = {"book": Param(""), "items": Param(10, type="integer")}

with DAG("chaotic_groups", schedule=None, params=PARAMS, default_args={"weight_rule": "upstream"}):

    @stream(max_pending=6, batch_interval=0.5, **TRIES)
    async def rows(items: str, cursor: int | None = None) -> AsyncIterator[Page]:
        for first in range(cursor or 0, int(items), 4):
            await asyncio.sleep(0.3)
            yield Page(list(range(first, min(first + 4, int(items)))), cursor=first + 4)

    @task_group
    def group(number: Any) -> None:
        one, two, three = (
            WriteDownOperator(task_id=task_id, number=number, book="{{ params.book }}", **TRIES)
            for task_id in ("one", "two", "three")
        )
        one >> two >> three

    group.expand(number=rows("{{ params['items'] }}")) >> EmptyOperator(task_id="after")
