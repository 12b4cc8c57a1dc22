"""DAGs whose sources wait for the test, for what must happen in a certain order."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from deferred_expand import DeferredExpandOperator
from tests.e2e.operators import EchoOperator
from tests.e2e.sources import gated

GATES = {"gates": Param("", type="string")}


@task
def collect(results: Any) -> list[Any]:
    return [result["value"] for result in results]


for materialize in ("auto", "triggerer", "callback"):
    with DAG(f"gated_{materialize}", schedule=None, params=GATES):
        stream = DeferredExpandOperator(
            task_id="stream",
            source=gated,
            source_kwargs={"gates": "{{ params.gates }}"},
            batch_interval=0.2,
            materialize=materialize,
        )
        collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)


@task
def fails_on_one(value: int) -> int:
    if value == 1:
        raise ValueError("as told")
    return value


with DAG("gated_failing", schedule=None, params=GATES):
    stream = DeferredExpandOperator(
        task_id="stream", source=gated, source_kwargs={"gates": "{{ params.gates }}"}, batch_interval=0.2
    )
    fails_on_one.override(task_id="echo").expand(value=stream.output)

with DAG("gated_held", schedule=None, params=GATES):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=gated,
        source_kwargs={"gates": "{{ params.gates }}"},
        batch_interval=0.2,
        max_pending=2,
        max_items=40,
    )
    EchoOperator.partial(task_id="echo", pool="held").expand(value=stream.output.filter("builtins:str"))

SETTINGS: dict[str, Any] = {
    "priority_weight": 3,
    "queue": "elsewhere",
    "retries": 4,
    "executor_config": {"some": "thing"},
    "map_index_template": "{{ value }}",
}

with DAG("compared", schedule=None, params=GATES):

    @task
    def values() -> list[int]:
        return list(range(6))

    stream = DeferredExpandOperator(
        task_id="stream",
        source=gated,
        source_kwargs={"gates": "{{ params.gates }}"},
        batch_interval=0.2,
        materialize="triggerer",
    )
    native = EchoOperator.partial(task_id="native", **SETTINGS).expand(value=values())
    streamed = EchoOperator.partial(task_id="streamed", **SETTINGS).expand(value=stream.output)
