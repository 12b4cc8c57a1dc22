"""Back pressure, rate limits and results of finished items, on a clock of their own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.airflow_internals.comms import (
    ENDED_STATES,
    ROWS_PER_REQUEST,
    count_task_instances,
    finished_items,
)
from deferred_expand.exceptions import ResultsAwaited
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.pauses import LONGEST_PAUSE
from deferred_expand.walking.results import FinishedResults
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.unit.helpers import Committer, MemoryStager, PagedNumbers, make_walk, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from deferred_expand.walking.walk import Walk

START = CommitLog("s").checkpoint


@dataclass
class Instances:
    """Item instances, each finished when the test says so."""

    finished: int = 0
    looks: int = 0

    async def count(self) -> int:
        self.looks += 1
        return self.finished


@asynccontextmanager
async def paced(numbers: PagedNumbers, pace: Pace | None, **options: Any) -> AsyncIterator[Walk]:
    walk = make_walk(numbers, MemoryStager(), START, pace, **{"batch_interval": 0.1, **options})
    walk.start()
    committing = asyncio.create_task(Committer(walk).run(START))
    yield walk
    committing.cancel()
    await walk.close()


@pytest.mark.asyncio
@virtual_time
async def test_no_more_is_asked_for_and_staged_than_may_be_pending() -> None:
    numbers, instances = PagedNumbers(pages=10, size=2), Instances()
    async with paced(numbers, Pace(max_pending=4, finished=instances.count), batch_size=4) as walk:
        for finished in range(0, 20, 2):
            instances.finished = finished
            await asyncio.sleep(3 * LONGEST_PAUSE)
            assert walk.items == min(20, finished + 4)
            assert len(numbers.given) == min(10, 2 + finished // 2), "the source is left alone as well"
        assert (await walk.batches()).ended


@pytest.mark.asyncio
@virtual_time
async def test_of_a_page_larger_than_that_only_a_part_is_staged() -> None:
    numbers, instances = PagedNumbers(pages=2, size=10), Instances()
    async with paced(numbers, Pace(max_pending=3, finished=instances.count), batch_size=3) as walk:
        await asyncio.sleep(60)
        assert walk.items == 3
        instances.finished = 2
        await asyncio.sleep(60)
        assert walk.items == 5
        assert numbers.given == [0]


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("interval", [0.1, 3])
@pytest.mark.parametrize("rate", [0.5, 4, 40])  # in whole microseconds, which the virtual clock counts in
async def test_items_come_at_the_rate(rate: float, interval: float) -> None:
    pace = Pace(rate_limit=rate)
    async with paced(PagedNumbers(pages=500, size=10), pace, batch_size=10, batch_interval=interval) as walk:
        await asyncio.sleep(1)
        for seconds in (10, 20, 40):
            before = walk.items
            await asyncio.sleep(seconds)
            slack = 1 + rate * max(0.5, interval)
            assert walk.items - before == pytest.approx(rate * seconds, rel=0.1, abs=slack)


@pytest.mark.asyncio
@virtual_time
async def test_what_a_slow_source_left_unused_does_not_come_at_once_later() -> None:
    async with paced(PagedNumbers(pages=2, size=50, delay=100), Pace(rate_limit=4), batch_size=50) as walk:
        await asyncio.sleep(101)
        assert 1 <= walk.items <= 7, "after 100 seconds in which 400 would have been allowed"


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize(("pace", "expected"), [({"rate_limit": 3}, 30), ({"max_pending": 7}, 7), ({}, 20)])
async def test_what_a_worker_takes_is_one_batch_at_any_pace(pace: dict[str, Any], expected: int) -> None:
    instances = Instances()
    paces = Pace(**pace, finished=instances.count) if pace else None
    # Without a pace a page comes each second; otherwise all that the pace lets through is there.
    source = PagedNumbers(pages=300, size=2, delay=0 if pace else 1)
    walk = make_walk(source, MemoryStager(), START, paces, batch_size=100)
    walk.start()
    event = await walk.batches_until(10.5)
    assert len(event.counts) == 1
    assert sum(event.counts) == pytest.approx(expected, abs=2)
    await walk.close()


@dataclass
class Items:
    """Results that come in the test's order."""

    states: dict[int, str | None] = field(default_factory=dict)
    given: int = 0
    hurried: int = 0

    async def count(self) -> int:
        return sum(state in ENDED_STATES for state in self.states.values())

    async def finished(self, among: Collection[int]) -> set[int]:
        return {number for number in among if self.states.get(number) in ENDED_STATES}

    async def result(self, number: int) -> Any:
        return f"result {number}" if self.states[number] == "success" else None

    def hurry(self) -> None:
        self.hurried += 1

    def results(self, *, waits: bool = True) -> FinishedResults:
        return FinishedResults(
            self.count, self.finished, self.result, lambda: self.given, self.hurry, waits=waits
        )


@pytest.mark.asyncio
@virtual_time
async def test_results_come_as_items_finish_and_end_with_the_last() -> None:
    items = Items({0: "deferred", 1: "running", 2: "success"}, given=3)
    results, seen = items.results(), []

    async def take() -> None:
        async for result in results:
            seen.append(result)

    taking = asyncio.create_task(take())
    await asyncio.sleep(5)
    assert seen == ["result 2"]
    assert items.hurried, "the third item has no instance yet: it is not to wait for a full batch"
    items.states |= {1: "failed", 3: "success"}
    await asyncio.wait_for(taking, 5)
    assert seen == ["result 2", None, "result 3"]
    items.given, items.states[4] = 4, "success"
    assert [result async for result in results] == ["result 4"], "it goes on with what is given since"
    items.given, again = 2, items.results()
    assert [result async for result in again] == [None, "result 2"], "of what is repeated after a crash"
    items.given = 4
    assert [result async for result in again] == ["result 3", "result 4"]


@pytest.mark.asyncio
async def test_where_nothing_runs_beside_it_the_source_has_to_let_go() -> None:
    items = Items({1: "success"}, given=2)
    results = items.results(waits=False)
    assert await anext(results) == "result 1"
    with pytest.raises(ResultsAwaited):
        await anext(results)


@pytest.mark.asyncio
@virtual_time
async def test_while_no_more_are_finished_their_number_is_all_that_is_asked_for() -> None:
    class Counted(Items):
        counts = looks = 0

        async def count(self) -> int:
            self.counts += 1
            return await super().count()

        async def finished(self, among: Collection[int]) -> set[int]:
            self.looks += 1
            return await super().finished(among)

    items = Counted({1: "running", 2: "running"}, given=2)
    results = items.results()
    taking = asyncio.ensure_future(anext(results))
    await asyncio.sleep(55)
    assert items.looks == 1
    assert 55 / LONGEST_PAUSE <= items.counts <= 55 / LONGEST_PAUSE + 10, "it has backed off"
    items.states[2] = "success"
    assert await asyncio.wait_for(taking, LONGEST_PAUSE) == "result 2"
    # One is cleared at the moment in which another one is done: their number stays as it is.
    taking = asyncio.ensure_future(anext(results))
    await asyncio.sleep(1)
    items.states |= {1: "success", 2: None}
    assert await asyncio.wait_for(taking, 70) == "result 1"


async def cost_of_results(monkeypatch: pytest.MonkeyPatch, items: int, at_once: int) -> int:
    """Of a source that waits for the results of so many at once; counted in states in an answer."""
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    states = airflow.tables.instances
    states["insert", 0] = "deferred"
    given, unfinished = 0, list[int]()

    async def count() -> int:
        return count_task_instances(DAG_ID, RUN_ID, "insert", ENDED_STATES)

    async def finished(among: Collection[int]) -> set[int]:
        return finished_items(DAG_ID, RUN_ID, "insert", among)

    async def result(number: int) -> int:
        return number

    async def run_items() -> None:
        """Three each second, in some order."""
        while True:
            for number in unfinished[::2][:3]:
                states["insert", number] = "success"
                unfinished.remove(number)
            await asyncio.sleep(1)

    running = asyncio.create_task(run_items())
    results, seen = FinishedResults(count, finished, result, lambda: given, lambda: None), set()
    while given < items:
        unfinished.extend(range(given + 1, given + at_once + 1))
        states.update({("insert", number): None for number in unfinished})
        given += at_once
        seen.update([number async for number in results])
    running.cancel()
    assert seen == set(range(1, items + 1))
    return ROWS_PER_REQUEST * sum(airflow.requests.values()) + airflow.states_given


@pytest.mark.asyncio
@virtual_time
async def test_what_results_cost_grows_with_the_items_and_not_with_their_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cost = await cost_of_results(monkeypatch, 1000, at_once=5)
    assert await cost_of_results(monkeypatch, 2000, at_once=5) < 2.2 * cost
