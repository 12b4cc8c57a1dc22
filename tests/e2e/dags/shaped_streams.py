"""Streams that are shaped, combined, shared, read, paced and stopped."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator, WaitingEchoOperator


@task
def collect(results: Any) -> list[Any]:
    return [result["value"] for result in results]


def numbers(count: int, **kwargs: Any) -> DeferredExpandOperator:
    return DeferredExpandOperator(
        task_id="stream", source=sources.numbers, source_kwargs={"count": count}, batch_interval=0.2, **kwargs
    )


def echo(over: Any, task_id: str = "echo") -> Any:
    return EchoOperator.partial(task_id=task_id).expand(value=over)


with DAG("shaped", schedule=None):
    shaped = numbers(6).output.filter(sources.is_even).flat_map("tests.e2e.sources:twice")
    # The last function is only known to this file.
    collect(echo(shaped.map(lambda word: word.upper())).output)

with DAG("nothing_left", schedule=None):
    collect(echo(numbers(3).output.filter(sources.is_negative)).output)

with DAG("skips_one", schedule=None):
    collect(echo(numbers(4).output.map(sources.all_but_two)).output)

with DAG("shared", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.api_pages,
        source_kwargs={"url": "{{ params.url }}", "pages": 3, "size": 1, "delay": 1},
        batch_interval=0.2,
        params={"url": ""},
    )
    tens = DeferredExpandOperator(
        task_id="tens", source=sources.numbers, source_kwargs={"count": 2}, batch_interval=0.2
    ).output.map(sources.times_ten)

    @task
    def summarize(read: Any, even: Any) -> list[Any]:
        return [list(read), list(read), list(even), len(read), read[-1]]

    echo(stream.output)
    echo(stream.output.filter(sources.is_even), "even")
    echo(stream.output.zip(tens, fillvalue=-1).map(list), "pair")
    echo(stream.output.concat(tens), "all")
    summarize(stream.output, stream.output.filter(lambda number: number % 2 == 0))

with DAG("only_read", schedule=None):

    @task
    def add_up(read: Any) -> int:
        return sum(read)

    add_up(numbers(5).output.map(lambda number: number + 1))

with DAG("parent_fails", schedule=None):
    broken = DeferredExpandOperator(
        task_id="broken", source=sources.breaks_after, source_kwargs={"count": 2}, source_retries=0
    )
    echo(broken.output)
    echo(broken.output.map(sources.times_ten), "tens")

with DAG("search", schedule=None):
    collect(echo(DeferredExpandOperator(task_id="stream", source=sources.search).output).output)

with DAG("held_back", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.api_pages,
        source_kwargs={"url": "{{ params.url }}", "pages": 6, "size": 1},
        batch_interval=0.2,
        max_pending=2,
        params={"url": "", "gate": ""},
    )
    collect(
        WaitingEchoOperator.partial(task_id="echo", gate="{{ params.gate }}")
        .expand(value=stream.output)
        .output
    )

with DAG("endless", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.endless,
        source_kwargs={"notes": "{{ params.notes }}"},
        batch_interval=0.5,
        params={"notes": ""},
    )
    echo(stream.output.filter(sources.is_first))
