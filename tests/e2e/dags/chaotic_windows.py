"""Windows of a stream, in whose runs the items write down that they were here, a DAG for each committer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param

from deferred_expand import Page, StreamWindow, WindowRunOperator, stream
from tests.chaos.operators import WriteDownOperator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRIES: Any = {"retries": 10, "retry_delay": timedelta(seconds=1)}
PARAMS = {"book": Param(""), "items": Param(10, type="integer")}

for committer in ("triggerer", "callback"):
    with DAG(f"chaotic_windows_{committer}", schedule=None, params=PARAMS):

        @stream(materialize=committer, max_pending=3, batch_interval=0.5, **TRIES)
        async def rows(items: str, cursor: int | None = None) -> AsyncIterator[Page]:
            for first in range(cursor or 0, int(items), 4):
                await asyncio.sleep(0.3)
                yield Page(list(range(first, min(first + 4, int(items)))), cursor=first + 4)

        WindowRunOperator.partial(
            task_id="load", trigger_dag_id="chaotic_window", conf={"book": "{{ params.book }}"}, **TRIES
        ).expand(window=rows("{{ params['items'] }}").window(6))

with DAG("chaotic_window", schedule=None, params={"book": Param("")}):
    WriteDownOperator.partial(task_id="item", book="{{ params.book }}", **TRIES).expand(
        number=StreamWindow(task_id="rows", **TRIES).output
    )
