"""Streams that are cleared, limited, timed out and tried again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from deferred_expand import DeferredExpandOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator, SleepyEchoOperator, ToldEchoOperator

GATES = {"gates": Param("", type="string")}
KWARGS = {"gates": "{{ params.gates }}"}


@task(trigger_rule="none_failed")
def collect(results: Any) -> list[Any]:
    return [result["value"] for result in results or []]


def gated() -> DeferredExpandOperator:
    return DeferredExpandOperator(
        task_id="stream", source=sources.gated, source_kwargs=KWARGS, batch_interval=0.2
    )


with DAG("as_many", schedule=None, params={"count": Param("", type="string")}):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.as_many_as,
        source_kwargs={"file": "{{ params.count }}"},
        batch_size=2,
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("followed", schedule=None, params={"count": Param("", type="string")}):
    stream = DeferredExpandOperator(
        task_id="stream", source=sources.as_many_as, source_kwargs={"file": "{{ params.count }}"}
    )
    EchoOperator(task_id="before", value=0) >> stream
    EchoOperator.partial(task_id="echo").expand(value=stream.output)
    tens = EchoOperator.partial(task_id="tens").expand(value=stream.output.map(sources.times_ten))
    collect(tens.output)

for retries in range(3):
    with DAG(f"retries_{retries}", schedule=None, params={"notes": Param("", type="string")}):
        stream = DeferredExpandOperator(
            task_id="stream",
            source=sources.fails_twice,
            source_kwargs={"notes": "{{ params.notes }}"},
            source_retries=0,
        )
        partial = EchoOperator.partial(task_id="echo", retries=retries, retry_delay=timedelta(0))
        collect(partial.expand(value=stream.output).output)

with DAG("too_many", schedule=None):
    stream = DeferredExpandOperator(
        task_id="stream", source=sources.numbers, source_kwargs={"count": 70}, batch_size=50
    )
    collect(EchoOperator.partial(task_id="echo").expand(value=stream.output).output)

with DAG("two_at_a_time", schedule=None, params=GATES):
    EchoOperator.partial(task_id="echo", max_active_tis_per_dagrun=2).expand(value=gated().output)

with DAG("two_places", schedule=None, params=GATES):
    EchoOperator.partial(task_id="echo", max_active_tis_per_dag=2).expand(value=gated().output)

for pool in ("one_slot", "one_slot_deferred_counted"):
    with DAG(pool, schedule=None, params=GATES):
        EchoOperator.partial(task_id="echo", pool=pool).expand(value=gated().output)

with DAG("after_the_past", schedule=None, start_date=datetime(2026, 1, 1), params=GATES):
    EchoOperator.partial(task_id="echo", depends_on_past=True).expand(value=gated().output)

with DAG("timed_items", schedule=None, params=GATES):
    SleepyEchoOperator.partial(task_id="echo", execution_timeout=timedelta(seconds=4)).expand(
        value=gated().output
    )

with DAG("timed_run", schedule=None, params=GATES, dagrun_timeout=timedelta(seconds=12)):
    EchoOperator.partial(task_id="echo").expand(value=gated().output)

for materialize in ("auto", "callback"):
    with DAG(f"fails_fast_{materialize}", schedule=None, params=GATES, fail_fast=True):
        stream = DeferredExpandOperator(
            task_id="stream",
            source=sources.gated,
            source_kwargs=KWARGS,
            batch_interval=0.2,
            materialize=materialize,
        )
        told = ToldEchoOperator.partial(
            task_id="echo", folder="{{ params.gates }}", retries=2, retry_delay=timedelta(0)
        )
        told.expand(value=stream.output)
        ToldEchoOperator(task_id="beside", value=None, folder="{{ params.gates }}")

    with DAG(f"tolerates_one_{materialize}", schedule=None, params=GATES):
        tolerant = DeferredExpandOperator(
            task_id="stream",
            source=sources.gated,
            source_kwargs=KWARGS,
            batch_interval=0.2,
            materialize=materialize,
            tolerate=1,
        )
        ToldEchoOperator.partial(task_id="echo", folder="{{ params.gates }}").expand(value=tolerant.output)

with DAG("secretive", schedule=None, params=GATES):
    stream = DeferredExpandOperator(
        task_id="stream",
        source=sources.gated_by_password,
        # Neither is in the DAG, as with a connection's.
        source_kwargs={
            **KWARGS,
            "password": "{{ 'open' ~ ' sesame' }}",
            "link": "https://shop.test/?sig={{ 'sig9' ~ 'nature' }}",
        },
        show=["gates"],
        batch_interval=0.2,
    )
    EchoOperator.partial(task_id="echo").expand(value=stream.output)
