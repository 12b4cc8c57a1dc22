"""Many items in one task instance that write down when they begin and end, a DAG for each kind of them."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from deferred_expand import iterate
from deferred_expand.airflow_internals.state_store import has_state_store
from tests.chaos.operators import TwoHopsOperator, write_item, write_item_async

PARAMS = {"book": Param(""), "items": Param(10, type="integer"), "seconds": Param(0.5, type="number")}
TRIES: Any = {"task_id": "items", "retries": 10, "retry_delay": timedelta(seconds=1)}
LIMITS: Any = {"concurrency": 6, "limits_interval": 20}


@task
def numbers(params: Any = None) -> list[int]:
    return list(range(params["items"]))


@task
def collect(results: Any) -> list[int]:
    return list(results)


def in_a_thread(number: int, params: Any = None) -> int:
    write_item(number, "begin")
    time.sleep(params["seconds"])
    write_item(number, "end")
    return number * 10


async def in_a_loop(number: int, params: Any = None) -> int:
    await write_item_async(number, "begin")
    await asyncio.sleep(params["seconds"])
    await write_item_async(number, "end")
    return number * 10


def iterated(kind: str) -> Any:
    if kind == "deferrable":
        return iterate(TwoHopsOperator.partial(**TRIES, seconds="{{ params.seconds }}"), **LIMITS)
    function: Any = in_a_thread if kind == "sync" else in_a_loop
    return iterate(task(**TRIES)(function), **LIMITS)


if has_state_store():
    for kind in ("sync", "async", "deferrable"):
        with DAG(f"chaotic_items_{kind}", schedule=None, params=PARAMS):
            items = iterated(kind).over(number=numbers())
            collect(items.output if kind == "deferrable" else items)
