"""The DAGs of the end-to-end tests."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, Asset, BaseOperator, Param, task

from deferred_expand import DeferredExpandOperator, SourceRetry
from tests.e2e import sources
from tests.e2e.operators import DeferringEchoOperator, EchoOperator, StartsFromTriggerOperator

API = {"url": "{{ params.url }}"}
WITH_URL = {"url": Param("", type="string")}
WITH_NOTES = {"notes": Param("", type="string")}


@task
def collect(results: Any) -> list[Any]:
    return list(results)


def note(context: Any) -> None:
    """A callback that leaves a trace: which instance called it, and for what."""
    ti = context["ti"]
    with Path(context["params"]["notes"]).open("a") as notes:
        notes.write(f"{context['params']['kind']} {ti.task_id} {ti.map_index}\n")


with DAG("classic", schedule=None, params=WITH_URL):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.api_pages,
        source_kwargs={**API, "pages": 4, "size": 3},
        batch_size=5,  # a batch ends inside a page
    )
    echo = EchoOperator.partial(
        task_id="echo", templated="{{ ti.map_index }}", map_index_template="item {{ echoed }}"
    ).expand(value=stream.output)
    collect(echo.output)

with DAG("taskflow", schedule=None):

    @task
    def how_many() -> int:
        return 7

    @task
    def add(x: int, y: int, z: int) -> int:
        return x + y + z

    stream = DeferredExpandOperator(
        task_id="stream",
        source="tests.e2e.sources:numbers",
        source_kwargs={"count": how_many()},  # an XCom, known at run time
        batch_size=3,
    )
    collect(add.partial(y=10).expand(x=stream.output, z=[100]))

with DAG("by_kwargs", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream", source=sources.records, source_kwargs={"count": 3}, batch_size=2
    )
    echo = EchoOperator.partial(task_id="echo").expand_kwargs(stream.output)
    collect(echo.output)

with DAG("nothing", schedule=None):
    stream = DeferredExpandOperator(task_id="stream", source=sources.numbers, source_kwargs={"count": 0})
    echo = EchoOperator.partial(task_id="echo").expand(value=stream.output)
    echo >> EmptyOperator(task_id="after")

with DAG("breaks", schedule=None, params=WITH_URL):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.api_pages,
        source_kwargs={**API, "pages": 4, "size": 2},
        batch_size=2,
        source_retries=1,
    )
    echo = EchoOperator.partial(task_id="echo", retries=1, retry_delay=timedelta(seconds=1)).expand(
        value=stream.output
    )
    collect(echo.output)

with DAG("defers", schedule=None):
    stream = DeferredExpandOperator(task_id="stream", source=sources.numbers, source_kwargs={"count": 2})
    collect(DeferringEchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("starts_from_trigger", schedule=None):
    stream = DeferredExpandOperator(task_id="stream", source=sources.numbers, source_kwargs={"count": 2})
    collect(StartsFromTriggerOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("empty_operators", schedule=None):
    stream = DeferredExpandOperator(task_id="stream", source=sources.words, source_kwargs={"count": 2})
    EmptyOperator.partial(task_id="empty").expand(doc=stream.output)

with DAG("many_empty_operators", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream", source=sources.words, source_kwargs={"count": 40}, batch_size=15
    )
    EmptyOperator.partial(task_id="empty").expand(doc=stream.output) >> EmptyOperator(task_id="after")

with DAG("authors_settings", schedule=None, params={"notes": Param("", type="string"), "kind": "success"}):
    stream = DeferredExpandOperator(task_id="stream", source=sources.numbers, source_kwargs={"count": 2})
    EchoOperator.partial(
        task_id="echo",
        outlets=[Asset("echoed_items")],
        on_success_callback=note,
        on_execute_callback=note,
        execution_timeout=timedelta(seconds=30),
    ).expand(value=stream.output)

with DAG("bad_item", schedule=None, params={"notes": Param("", type="string"), "kind": "failure"}):
    stream = DeferredExpandOperator(task_id="stream", source=sources.third_is_bad, source_kwargs={"count": 5})
    EchoOperator.partial(task_id="echo", on_failure_callback=note).expand(value=stream.output)

with DAG("blocking", schedule=None):

    @task(task_id="echo")
    def text_of(value: dict[str, str]) -> str:
        return value["text"]

    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.blocking_templates,
        source_kwargs={"count": 4, "pause": 0.3},
        batch_size=2,
    )
    collect(text_of.expand(value=stream.output))

with DAG("too_long", schedule=None):
    stream = DeferredExpandOperator(task_id="stream", source=sources.numbers, source_kwargs={"count": 70})
    EchoOperator.partial(task_id="echo").expand(value=stream.output)

with DAG("hangs_twice", schedule=None, params=WITH_NOTES):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.hangs,
        source_kwargs={"notes": "{{ params.notes }}", "times": 2},
        page_timeout=2,
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("hangs", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.hangs_in_a_thread,
        source_kwargs={"seconds": 30},
        source_retries=0,
        page_timeout=timedelta(seconds=2),
    )
    EchoOperator.partial(task_id="echo").expand(value=stream.output)

with DAG("takes_too_long", schedule=None, params=WITH_NOTES):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.hangs,
        source_kwargs={"notes": "{{ params.notes }}", "times": 99},
        execution_timeout=timedelta(seconds=8),
    )
    EchoOperator.partial(task_id="echo").expand(value=stream.output)


class HangingOperator(BaseOperator):
    """Only this file has it, so its hops run on workers."""

    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(hours=1)), method_name="execute")


with DAG("hangs_between_workers", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream", source=HangingOperator, page_timeout=2, retry=SourceRetry(attempts=1)
    )
    EchoOperator.partial(task_id="echo").expand(value=stream.output)
