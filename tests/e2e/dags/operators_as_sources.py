"""Real providers' operators, unmodified, as sources."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.http.operators.http import HttpOperator
from airflow.sdk import DAG, BaseOperator, task
from airflow.sdk.exceptions import AirflowSkipException

from deferred_expand import DeferredExpandOperator, SourceRetry
from tests.e2e import sources
from tests.e2e.operators import ContextOperator, CountingTrigger, EchoOperator


@task
def collect(results: Any) -> list[Any]:
    return [result["value"] for result in results]


def http(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"http_conn_id": "paged_api", "method": "GET", "endpoint": name, **kwargs}


def pages(size: int, count: int, delay: float = 0) -> dict[str, str]:
    return {"size": str(size), "pages": str(count), "delay": str(delay)}


with DAG("http_links", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=HttpOperator,
        source_kwargs=http(
            "http_links",
            data=pages(2, 5),
            pagination_function=sources.next_by_link,
            response_filter=sources.numbers_of,
        ),
        batch_interval=0.2,
        retry=SourceRetry(attempts=4, wait=0.2),
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("http_tokens", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source="airflow.providers.http.operators.http:HttpOperator",
        source_kwargs=http(
            "http_tokens",
            data=pages(1, 4, delay=1),
            pagination_function=sources.next_by_token,
            response_filter=sources.numbers_of,
        ),
        batch_interval=0.2,
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("http_lambda", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=HttpOperator,
        source_kwargs=http(
            "http_lambda",
            data=pages(2, 3),
            pagination_function=sources.next_by_token,
            # Only the DAG file has it.
            response_filter=lambda responses: [n + 100 for r in responses for n in r.json()["items"]],
        ),
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("http_killed", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=HttpOperator,
        source_kwargs=http(
            "http_killed",
            data=pages(2, 8, delay=2),
            pagination_function=sources.next_by_token,
            response_filter=sources.numbers_of,
        ),
        batch_interval=0.1,
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("transfer", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=GenericTransfer,
        source_kwargs={
            "sql": "select number, name from numbers order by number",
            "source_conn_id": "numbers",
            "destination_conn_id": "numbers",
            "destination_table": "unused",
            "page_size": 3,
        },
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("trigger_source", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream", source=CountingTrigger, source_kwargs={"count": 3}, batch_interval=0.2
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)


class SkippingOperator(BaseOperator):
    """Also one that only the DAG file has."""

    def execute(self, context: Any) -> None:
        raise AirflowSkipException("nothing to do today")


with DAG("skips", schedule=None):
    stream = DeferredExpandOperator(task_id="stream", source=SkippingOperator)
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("own_context", schedule=None, params={"n": 1, "name": "of the DAG", "only": "of the DAG"}):
    stream = DeferredExpandOperator(
        task_id="users",
        source=sources.give,
        source_kwargs={
            "texts": [
                "{{ params.n }}",
                "{{ params.name }}",
                "{{ params.only }}",
                "{{ ti.task_id }}[{{ ti.map_index }}]",
                "{{ task.task_id }}",
                "{{ task_instance_key_str }}",
                "{{ dag_run.run_id }}",
            ]
        },
        params={"n": 3, "name": "of users"},
    )
    collect(
        EchoOperator.partial(task_id="echo", params={"name": "of echo"}).expand(value=stream.output).output
    )


class ContextOperatorOfTheFile(ContextOperator):
    """Which only this file has."""


for operator in (ContextOperator, ContextOperatorOfTheFile):
    with DAG(
        operator.__name__, schedule=None, params={"n": 1, "m": 2}, default_args={"told": "by default_args"}
    ):
        stream = DeferredExpandOperator(task_id="users", source=operator, params={"n": 3})
        collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("template_file", schedule=None, params={"n": 1}):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=SQLExecuteQueryOperator,
        source_kwargs={"conn_id": "numbers", "sql": "numbers.sql"},
        params={"n": 2},
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output.map(list)).output)
