"""A stream whose items are task instances, and one whose items share an instance for each batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task

from benchmarks.sources import pages
from deferred_expand import DeferredExpandOperator, iterate

PARAMS = {
    "count": Param(20), "items": Param(5), "page_seconds": Param(1.5), "item_seconds": Param(0.2),
    "notes": Param("", type="string"),
}  # fmt: skip
ARGUMENTS = {
    "count": "{{ params.count }}", "items": "{{ params['items'] }}", "seconds": "{{ params.page_seconds }}",
}  # fmt: skip


@task(show_return_value_in_logs=False)
def item(value: int, params: Any = None) -> int:
    with Path(params["notes"]).open("a") as notes:
        notes.write(f"{time.time()}\n")
    time.sleep(params["item_seconds"])
    return value


@task(show_return_value_in_logs=False)
def nothing(index: int) -> int:
    return index


@task(show_return_value_in_logs=False)
async def nothing_async(index: int) -> int:
    return index


@task(show_return_value_in_logs=False)
def indexes(params: Any = None) -> list[int]:
    return list(range(params["count"]))


with DAG("stream_expand", schedule=None, params=PARAMS):
    item.expand(value=DeferredExpandOperator(task_id="given", source=pages, source_kwargs=ARGUMENTS).output)

with DAG("stream_iterate", schedule=None, params=PARAMS):
    iterate(item).over(
        value=DeferredExpandOperator(task_id="given", source=pages, source_kwargs=ARGUMENTS).output
    )

with DAG("nothing_threads", schedule=None, params=PARAMS):
    iterate(nothing).over(index=indexes())

with DAG("nothing_async", schedule=None, params=PARAMS):
    iterate(nothing_async, concurrency=200).over(index=indexes())
