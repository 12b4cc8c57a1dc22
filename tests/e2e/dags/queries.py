"""Queries as sources, on a real database server; each beside the same operator as a task of its own."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.sql.hooks.handlers import fetch_one_handler
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator
from tests.e2e.operators import EchoOperator
from tests.e2e.sources import upper_rows

QUERIES: dict[str, dict[str, Any]] = {
    "like": {"sql": "select name, born from people where name like 'a%' order by name"},
    "parameters": {
        "sql": "select name, born from people where born > %(year)s and name like 'a%%' order by name",
        "parameters": {"year": 1900},
    },
    "template_file": {"sql": "people.sql", "params": {"letter": "g"}},
    "handler": {"sql": "select name from people order by name", "handler": fetch_one_handler},
    "output_processor": {"sql": "select name from people order by name", "output_processor": upper_rows},
    "statements": {
        "sql": "create temp table t as select name from people; select count(*) from t",
        "split_statements": True,
        "autocommit": True,
    },
}


def plain(value: Any) -> Any:
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


@task(trigger_rule="none_failed")
def compared(native: Any, results: Any) -> dict[str, Any]:
    return {"native": plain(native), "streamed": plain([result["value"] for result in results])}


with DAG("queries", schedule=None, default_args={"conn_id": "people"}):
    for name, arguments in QUERIES.items():
        arguments = dict(arguments)
        own = {"params": arguments.pop("params")} if "params" in arguments else {}
        native = SQLExecuteQueryOperator(task_id=f"native_{name}", **arguments, **own)
        kwargs = {"conn_id": "people", **arguments}
        stream = DeferredExpandOperator(
            task_id=name, source=SQLExecuteQueryOperator, source_kwargs=kwargs, **own
        )
        items = EchoOperator.partial(task_id=f"echo_{name}").expand(value=stream.output)
        compared.override(task_id=f"compare_{name}")(native.output, items.output)
