"""Runs of many instances that start no worker, natively and streamed: of a task, and a group of three."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task, task_group

from benchmarks.sources import page_of, pages
from deferred_expand import DeferredExpandOperator

PARAMS = {"pages": 40, "per_page": 25, "page_seconds": 0.5}
FROM_PARAMS = {
    "count": "{{ params.pages }}",
    "items": "{{ params.per_page }}",
    "seconds": "{{ params.page_seconds }}",
    "item_bytes": "0",
    "yields": "",
}


class ValueOperator(EmptyOperator):
    """Takes a value, and does nothing."""

    def __init__(self, *, value: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value


@task_group
def group(value: Any) -> None:
    (
        ValueOperator(task_id="one", value=value)
        >> EmptyOperator(task_id="two")
        >> EmptyOperator(task_id="three")
    )


def make_dag(dag_id: str, *, in_group: bool, **stream_arguments: Any) -> None:
    """:param stream_arguments: of the stream; natively expanded without."""
    defaults = {"weight_rule": "upstream"}
    with DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1), params=PARAMS, default_args=defaults):

        @task
        def fetch(count: str, items: str, seconds: str, item_bytes: str, yields: str) -> list[Any]:
            found = []
            for number in range(int(count)):
                time.sleep(float(seconds))
                found += page_of(number, int(items), 0)
            return found

        source: Any
        if stream_arguments:
            source = DeferredExpandOperator(
                task_id="fetch", source=pages, source_kwargs=FROM_PARAMS, **stream_arguments
            ).output
        else:
            source = fetch(**FROM_PARAMS)
        if in_group:
            group.expand(value=source)
        else:
            ValueOperator.partial(task_id="item").expand(value=source)


STREAMED: dict[str, dict[str, Any]] = {"native": {}, "streamed": {"materialize": "triggerer"}}
for name, arguments in STREAMED.items():
    make_dag(f"sizes_empty_{name}", in_group=False, **arguments)
    make_dag(f"sizes_group_{name}", in_group=True, **arguments)
make_dag("sizes_group_pending", in_group=True, materialize="triggerer", max_pending=50)
