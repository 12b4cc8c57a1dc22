"""Task groups over streams."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, setup, task, task_group, teardown

from deferred_expand import DeferredExpandOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator

PARAMS = {"gates": Param("", type="string"), "notes": Param("", type="string")}
GATES = {"gates": "{{ params.gates }}"}


def stream(task_id: str = "users", **arguments: Any) -> DeferredExpandOperator:
    given = {"source": sources.gated, "source_kwargs": GATES, "batch_interval": 0.2, **arguments}
    return DeferredExpandOperator(task_id=task_id, **given)


@task
def double(x: int) -> int:
    return 2 * x


@task
def add(doubled: int, x: int) -> int:
    return doubled + x


@task
def tell(added: int, both: Any) -> list[Any]:
    return [added, *both]


@task(trigger_rule="none_failed")
def collect(results: Any) -> list[Any]:
    return list(results or [])


@task_group
def chain(x: Any) -> Any:
    doubled: Any = double(x)
    added: Any = add(doubled, x)
    return tell(added, [doubled, added])


def with_chain(dag_id: str, **arguments: Any) -> None:
    with DAG(dag_id, schedule=None, params=PARAMS, default_args={"weight_rule": "upstream"}):
        collect(chain.expand(x=stream(**arguments).output))


with_chain("grows")
with_chain("grows_callback", materialize="callback")
with_chain("grows_pending", max_pending=4, batch_size=2)
with_chain("grows_retried", retries=2, retry_delay=timedelta(0))

with DAG("grows_numbers", schedule=None):
    collect(chain.expand(x=stream(source=sources.numbers, source_kwargs={"count": 4}).output))

with DAG("grows_as_many", schedule=None, params={"count": Param("", type="string")}):
    as_many = stream(
        source=sources.as_many_as,
        source_kwargs={"file": "{{ params.count }}"},
        batch_size=2,
        batch_interval=1.0,
    )
    collect(chain.expand(x=as_many.output))


@task_group
def nothing(x: Any) -> None:
    EmptyOperator(task_id="first") >> EmptyOperator(task_id="last")


with DAG("grows_too_long", schedule=None, params=PARAMS):
    nothing.expand(x=stream().output)

with DAG("grows_fails", schedule=None, params=PARAMS):
    fails = stream(source=sources.breaks_after, source_kwargs={"count": 3}, source_retries=0)
    collect(chain.expand(x=fails.output))

with DAG("grows_in_a_loop", schedule=None, params=PARAMS):
    tries = stream(source=sources.tries_until_large, source_kwargs={}, results_of="tell")
    collect(chain.expand(x=tries.output))


@task
def fails_on(x: int) -> int:
    if x in (3, 7):
        raise ValueError("as told")
    return x


@task(trigger_rule="one_failed")
def on_failure(x: int) -> int:
    return x


@task(trigger_rule="none_failed_min_one_success")
def join(x: int) -> int:
    return x


@task_group
def by_rules(x: Any) -> None:
    failing = fails_on(x)
    handled = on_failure.override(task_id="on_failure")(x)
    joined = join(x)
    failing >> [handled, joined]


with DAG("grows_by_rules", schedule=None, params=PARAMS, default_args={"retries": 0}):
    by_rules.expand(x=stream().output)

with DAG("grows_with_all", schedule=None, params=PARAMS):
    slow = task(task_id="outside")(lambda: time.sleep(3))()

    @setup
    def begin(x: int) -> None: ...

    @teardown
    def clean_up(x: int) -> None: ...

    @task
    def after_outside(x: int) -> int:
        return x

    @task_group
    def everything(x: Any) -> None:
        begun, done = begin(x), clean_up(x)

        @task_group
        def nested(y: Any) -> Any:
            return double(y)

        inner = nested(x)
        begun >> inner >> EmptyOperator(task_id="nothing") >> done
        last = after_outside(inner)  # type: ignore[arg-type]
        slow >> last

    shaped = stream().output.map(sources.as_x)
    everything.expand_kwargs(shaped)


@task
def of_pair(pair: Any, factor: int) -> int:
    return int(pair[0] * pair[1] * factor)


@task_group
def pairs_up(pair: Any, factor: Any) -> Any:
    return of_pair(pair, factor)


with DAG("grows_zipped", schedule=None):
    ones, twos = (
        stream(name, source=sources.numbers, source_kwargs={"count": count})
        for name, count in (("ones", 5), ("twos", 4))
    )
    zipped = ones.output.zip(twos.output)
    tripled = pairs_up.partial(factor=double(1)).expand(pair=zipped)
    collect.override(task_id="collect_pairs")(tripled)
    collect.override(task_id="collect_ones")(chain.expand(x=ones.output))

with DAG("grows_beside_others", schedule=None, params=PARAMS):
    shared = stream()
    EchoOperator.partial(task_id="echo").expand(value=shared.output)
    collect.override(task_id="collect_chain")(chain.expand(x=shared.output.map(sources.times_ten)))
    collect.override(task_id="collect_all")(shared.output)
