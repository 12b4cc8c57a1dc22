"""Sources written in the DAG file."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import stream_helpers
from airflow.sdk import DAG, Variable, dag, get_current_context, task

from deferred_expand import DeferredExpandOperator, Page, stream
from tests.e2e.operators import EchoOperator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

COLOUR = Variable.get("colour", default="none")


@task
def collect(results: Any) -> list[Any]:
    return [result["value"] for result in results]


def echo(over: Any) -> Any:
    return EchoOperator.partial(task_id="echo").expand(value=over)


@dag(schedule=None, params={"count": 6})
def in_the_dag_file() -> None:
    @task
    def first() -> int:
        return 1

    @stream(batch_size=2)
    async def numbers(start: int, count: str, cursor: int | None = None) -> AsyncIterator[Page]:
        for number in range(start if cursor is None else cursor, int(count)):
            await asyncio.sleep(0.01)
            yield Page([number], cursor=number + 1)

    shaped = numbers(first(), "{{ params.count }}").filter(stream_helpers.is_wanted)
    collect(echo(shaped.flat_map(lambda number: [number, -number])).output)


in_the_dag_file()

with DAG("context_of_a_source", schedule=None, params={"who": "all"}):

    @stream
    def seen(params: Any, ti: Any, run_id: str, first: str, **context: Any) -> Iterator[Any]:
        print("printed by the source")
        yield [params["who"], ti.task_id, run_id == ti.run_id, first, "dag_run" in context]
        yield get_current_context()["params"]["who"]
        yield context["task"].task_id
        yield COLOUR
        yield Variable.get("colour", default="none")

    @stream
    def positional(word: str, /, *more: str) -> Iterator[str]:
        yield from (word, *more)

    collect(echo(seen(first="{{ params.who }}").concat(positional("a", "{{ run_id[:6] }}"))).output)

with DAG("crashes_in_its_process", schedule=None):

    @task.stream(source_retries=0)
    async def crashes() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(1)
        os._exit(7)

    echo(crashes())

with DAG("results_in_the_dag_file", schedule=None):

    @stream
    async def search(results: Any) -> AsyncIterator[int]:
        yield 1
        async for result in results:
            if result["value"] < 4:
                yield result["value"] + 1

    echo(search())

with DAG("lambda_of_an_importable_source", schedule=None):
    numbers = DeferredExpandOperator(
        task_id="numbers", source="tests.e2e.sources:numbers", source_kwargs={"count": 4}
    )
    collect(echo(numbers.output.map(lambda number: stream_helpers.shout(f"n{number}"))).output)


@dag(schedule=None, params={"wanted": "one"})
def with_conditions() -> None:
    @task.run_if(lambda context: context["params"]["wanted"] == "one")
    @task.stream
    def one() -> Iterator[int]:
        yield 1

    @task.skip_if(lambda context: context["params"]["wanted"] == "one")
    @task.stream
    def other() -> Iterator[int]:
        yield 2

    EchoOperator.partial(task_id="echo_one").expand(value=one())
    EchoOperator.partial(task_id="echo_other").expand(value=other())


with_conditions()
