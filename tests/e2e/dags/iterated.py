"""Many items in one task instance. What they do is told in a folder, and so is what they have done."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG, Asset, BaseOperator, BaseSensorOperator, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from deferred_expand import Page, iterate, stream
from deferred_expand.airflow_internals.state_store import has_state_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARAMS = {"folder": Param("", type="string"), "items": Param(10, type="integer"), "takes": Param(0.2)}


def note(what: str, index: int) -> None:
    """Whoever reads it sees whole lines."""
    folder = Path(get_current_context()["params"]["folder"])
    with (folder / "notes").open("a") as notes:
        notes.write(f"{what} {index} {time.time():.3f} {os.getpid()}\n")


def this_item() -> int:
    ti: Any = get_current_context()["ti"]
    return int(ti.item_index)


def told(what: str, index: int) -> bool:
    return (Path(get_current_context()["params"]["folder"]) / f"{what} {index}").exists()


def end(index: int) -> int:
    if told("skip", index):
        raise AirflowSkipException("as told")
    if told("give up", index):
        raise AirflowFailException("as told")
    if told("fail", index):
        raise ValueError("as told")
    note("end", index)
    return index * 10


class Hops(BaseOperator):
    """Waits twice, without a thread."""

    template_fields = ("index", "takes", "text")

    def __init__(self, *, index: int, takes: Any, text: str = "{{ ti.item_index }}", **kwargs: Any):
        super().__init__(**kwargs)
        self.index, self.takes, self.text = index, takes, text

    def execute(self, context: Any) -> None:
        note("begin", self.index)
        self._wait("again")

    def again(self, context: Any, event: Any) -> None:
        assert context["ti"].item_index == self.index
        self._wait("end")

    def end(self, context: Any, event: Any) -> int:
        return end(self.index)

    def _wait(self, method: str) -> None:
        moment = datetime.now(tz=timezone.utc) + timedelta(seconds=float(self.takes) / 2)
        self.defer(trigger=DateTimeTrigger(moment), method_name=method)


class Killable(BaseOperator):
    """Ends when it is killed, and not before."""

    def __init__(self, *, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index, self.killed = index, False

    def execute(self, context: Any) -> None:
        self.folder = context["params"]["folder"]
        note("begin", self.index)
        while not self.killed:
            time.sleep(0.05)

    def on_kill(self) -> None:
        self.killed = True
        with (Path(self.folder) / "notes").open("a") as notes:
            notes.write(f"killed {self.index} {time.time():.3f} {os.getpid()}\n")


class Late(BaseOperator):
    """Takes too long, in a way of its own."""

    def __init__(self, *, way: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.way = way

    def execute(self, context: Any) -> str:
        if self.way == "spins":
            while True:
                pass
        if self.way == "blocks":
            time.sleep(3600)
        if self.way == "defers":
            moment = datetime.now(tz=timezone.utc) + timedelta(hours=1)
            self.defer(trigger=DateTimeTrigger(moment), method_name="execute")
        return self.way


class ToldSensor(BaseSensorOperator):
    """Pokes until it has poked three times."""

    def __init__(self, *, index: int, **kwargs: Any) -> None:
        super().__init__(poke_interval=0.2, mode="reschedule", **kwargs)
        self.index, self.pokes = index, 0

    def poke(self, context: Any) -> bool:
        note("poke", self.index)
        self.pokes += 1
        return self.pokes == 3


@task
def numbers(params: Any = None) -> list[int]:
    return list(range(params["items"]))


def sync_item(index: int, params: Any, ti: Any) -> int:
    assert this_item() == ti.item_index == index
    note("begin", index)
    time.sleep(params["takes"])
    return end(index)


async def async_item(index: int, params: Any) -> int:
    assert this_item() == index
    note("begin", index)
    await asyncio.sleep(params["takes"])
    assert this_item() == index
    return end(index)


def items_of(kind: str, given: Any, **options: Any) -> Any:
    """The same job, done in three ways, with two more tries."""
    how: Any = {"task_id": "items", "retries": 2, "retry_delay": timedelta(0)}
    if kind == "deferrable":
        partial = Hops.partial(**how, takes="{{ params.takes }}")
        return iterate(partial, **options).over(index=given).output
    function: Any = sync_item if kind == "sync" else async_item
    decorate = task(**how)
    return iterate(decorate(function), **options).over(index=given)


@task
def collect(results: Any) -> Any:
    if isinstance(results, dict):
        return {name: list(values) for name, values in results.items()}
    return list(results)


if has_state_store():
    for kind in ("sync", "async", "deferrable"):
        with DAG(f"iterated_{kind}", schedule=None, params=PARAMS):
            collect(items_of(kind, numbers(), concurrency=4))

    with DAG("iterated_tolerant", schedule=None, params=PARAMS):
        collect(items_of("sync", numbers(), concurrency=2, tolerate="20%", checkpoint=0))

    with DAG("iterated_killed", schedule=None, params=PARAMS):
        iterate(Killable.partial(task_id="items"), concurrency=3).over(index=numbers())

    with DAG("iterated_waits", schedule=None, params=PARAMS):
        collect(items_of("deferrable", numbers(), concurrency=3, limits_interval=30))

    with DAG("iterated_too_long", schedule=None, params=PARAMS):
        iterate(Killable.partial(task_id="items"), concurrency=2, instance_timeout=timedelta(seconds=3)).over(
            index=numbers()
        )
        iterate(
            Hops.partial(task_id="hops", takes=3600),
            concurrency=2,
            instance_timeout=timedelta(seconds=12),
        ).over(index=numbers())

    with DAG("iterated_late", schedule=None):
        late = Late.partial(task_id="late", execution_timeout=timedelta(seconds=1))
        ways = ["is fine", "spins", "blocks", "defers", "is fine, too"]
        collect(iterate(late, concurrency=2, tolerate="60%").over(way=ways).output)

        @task(execution_timeout=timedelta(seconds=1))
        async def hangs(way: str) -> str:
            await asyncio.sleep(3600 if way == "hangs" else 0)
            return way

        collect.override(task_id="others")(
            iterate(hangs, concurrency=1, tolerate=1).over(way=["hangs", "is fine"])
        )

    @dag(schedule=None, params={"count": Param(30, type="integer")})
    def iterated_stream() -> None:
        @stream(batch_size=4)
        async def pages(count: str, cursor: int | None = None) -> AsyncIterator[Page]:
            for first in range(cursor or 0, int(count), 5):
                await asyncio.sleep(0.2)
                yield Page(list(range(first, first + 5)), cursor=first + 5)

        @task
        def tripled(number: int, ti: Any = None) -> int:
            if number == 6:
                raise AirflowSkipException("no six")
            ti.xcom_push("place", [ti.map_index, ti.item_index])
            return 3 * number

        @task
        def seen(numbers: Any) -> int:
            return len(list(numbers))

        given = pages("{{ params.count }}").filter(lambda number: number % 10)
        items = iterate(tripled, concurrency=2).over(number=given)
        collect({"tripled": items, "places": items["place"]})
        seen(given)

    iterated_stream()

    @dag(schedule=None)
    def iterated_in_all_ways() -> None:
        @task
        def some() -> list[int]:
            return list(range(25))

        @task(outlets=[Asset("iterated")])
        def doubled(value: int, ti: Any = None, outlet_events: Any = None) -> int:
            print("the value is", value)
            if value == 3:
                raise AirflowSkipException("no three")
            ti.xcom_push("square", value * value)
            outlet_events[Asset("iterated")].extra[f"item {value}"] = value
            return value * 2

        @task
        async def product(value: int, other: int) -> int:
            await asyncio.sleep(0.2)
            return value * 10 + other

        @task
        def summed(a: int, b: int) -> int:
            return a + b

        @task
        def hundred() -> list[int]:
            return [100]

        @task
        def on_top(a: int, base: list[int]) -> int:
            base.append(a)  # no other item sees it
            return sum(base)

        given = some()
        double = iterate(doubled, concurrency=4).over(value=given)
        hops = iterate(
            Hops.partial(task_id="hops", takes=1.0, params={"folder": "/tmp"}), concurrency=30, instances=2
        )
        pokes = iterate(ToldSensor.partial(task_id="pokes", params={"folder": "/tmp"}))
        products = iterate(product, concurrency=10).over(value=given.map(lambda n: n + 1), other=[0, 1])
        collect(
            {
                "doubled": double,
                "squares": double["square"],
                "products": products,
                "sums": iterate(summed).over_kwargs([{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
                "hops": hops.over(index=given).output,
                "zipped": iterate(on_top.partial(base=hundred()), concurrency=4).over(
                    a=given.zip(given).map(lambda pair: sum(pair))
                ),
            }
        )
        pokes.over(index=[0, 1, 2])

    iterated_in_all_ways()
