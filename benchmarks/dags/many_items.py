"""The same tiny files, fetched in one task instance or in one each."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG, BaseOperator, Param, task

from benchmarks import fetching
from deferred_expand import iterate

PARAMS = {"url": Param("", type="string"), "count": Param(10, type="integer")}
AT_A_TIME = 200
THREADS = 64


@task(show_return_value_in_logs=False)
def indexes(params: Any = None) -> list[int]:
    return list(range(params["count"]))


@task(show_return_value_in_logs=False)
async def fetch(index: int, params: Any = None) -> int:
    return await fetching.fetch(params["url"], index)


@task(show_return_value_in_logs=False)
def fetch_in_thread(index: int, params: Any = None) -> int:
    return fetching.fetch_in_thread(params["url"], index)


class TwoHops(BaseOperator):
    """Waits for a second, twice."""

    def __init__(self, *, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index

    def execute(self, context: Any) -> None:
        self._wait("again")

    def again(self, context: Any, event: Any) -> None:
        self._wait("end")

    def end(self, context: Any, event: Any) -> int:
        return self.index

    def _wait(self, method: str) -> None:
        moment = datetime.now(tz=timezone.utc) + timedelta(seconds=1)
        self.defer(trigger=DateTimeTrigger(moment), method_name=method)


with DAG("files_loop", schedule=None, params=PARAMS):

    @task(show_return_value_in_logs=False)
    def loop(params: Any = None) -> int:
        return asyncio.run(fetching.fetch_all(params["url"], params["count"], AT_A_TIME))

    loop()

with DAG("files_pool", schedule=None, params=PARAMS):

    @task(show_return_value_in_logs=False)
    def pool(params: Any = None) -> int:
        return fetching.fetch_all_in_threads(params["url"], params["count"], THREADS)

    pool()

with DAG("files_iterate", schedule=None, params=PARAMS):
    iterate(fetch, concurrency=AT_A_TIME).over(index=indexes())

with DAG("files_resumed", schedule=None, params=PARAMS):
    iterate(fetch.override(retries=1, retry_delay=timedelta(0)), concurrency=AT_A_TIME).over(index=indexes())

with DAG("files_iterate_threads", schedule=None, params=PARAMS):
    iterate(fetch_in_thread, concurrency=THREADS).over(index=indexes())

with DAG("files_native", schedule=None, params=PARAMS, max_active_tasks=64):
    fetch_in_thread.expand(index=indexes())

with DAG("hops_iterate", schedule=None, params=PARAMS):
    iterate(TwoHops.partial(task_id="hops"), concurrency=2000).over(index=indexes())

with DAG("hops_native", schedule=None, params=PARAMS, max_active_tasks=64):
    TwoHops.partial(task_id="hops").expand(index=indexes())
