"""The same work, expanded natively and streamed by each committer."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from airflow.sdk import DAG, XComArg, task

from benchmarks.sources import page_of, pages
from deferred_expand import DeferredExpandOperator

PARAMS = {"pages": 20, "per_page": 5, "page_seconds": 1.5, "item_seconds": 0.2, "item_bytes": 0, "yields": ""}
FROM_PARAMS = {
    "count": "{{ params.pages }}",
    "items": "{{ params.per_page }}",
    "seconds": "{{ params.page_seconds }}",
    "item_bytes": "{{ params.item_bytes }}",
    "yields": "{{ params.yields }}",
}


def make_dag(dag_id: str, **stream_arguments: Any) -> DAG:
    """:param stream_arguments: of the stream; natively expanded without."""
    with DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1), params=PARAMS) as dag:

        @task
        def fetch(count: str, items: str, seconds: str, item_bytes: str, yields: str) -> list[Any]:
            found = []
            for number in range(int(count)):
                time.sleep(float(seconds))
                found += page_of(number, int(items), int(item_bytes))
            return found

        @task
        def item(value: Any, seconds: str) -> None:
            time.sleep(float(seconds))

        source: XComArg
        if stream_arguments:
            source = DeferredExpandOperator(
                task_id="fetch", source=pages, source_kwargs=FROM_PARAMS, **stream_arguments
            ).output
        else:
            source = fetch(**FROM_PARAMS)
        item.partial(seconds="{{ params.item_seconds }}").expand(value=source)
    return dag


for prefix in ("", "waiting_"):  # items of "waiting" never run: see airflow_local_settings.py
    make_dag(f"{prefix}native")
    make_dag(f"{prefix}expander", materialize="triggerer")
    make_dag(f"{prefix}callback", materialize="callback")
