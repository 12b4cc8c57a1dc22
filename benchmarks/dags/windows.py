"""A stream in windows, and the DAG whose runs iterate over one of them each."""

from __future__ import annotations

from airflow.sdk import DAG, Param, task

from benchmarks.sources import pages
from deferred_expand import DeferredExpandOperator, StreamWindow, WindowRunOperator, iterate

with DAG("windows_parent", schedule=None, params={"pages": Param(20), "per_page": Param(500)}):
    rows = DeferredExpandOperator(
        task_id="rows",
        source=pages,
        source_kwargs={"count": "{{ params.pages }}", "items": "{{ params.per_page }}", "seconds": "0"},
        max_pending=4,
    )
    WindowRunOperator.partial(task_id="load", trigger_dag_id="windows_child").expand(
        window=rows.output.window(500)
    )

with DAG("windows_child", schedule=None):

    @task(show_return_value_in_logs=False)
    async def nothing(row: int) -> int:
        return row

    iterate(nothing, concurrency=200).over(row=StreamWindow(task_id="rows").output)
