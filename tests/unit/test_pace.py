"""Back pressure, rate limits and results of finished items, on a clock of their own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.airflow_internals.comms import ENDED_STATES
from deferred_expand.exceptions import ResultsAwaited
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.pauses import LONGEST_PAUSE
from deferred_expand.walking.results import FinishedResults
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk

if TYPE_CHECKING:
    from deferred_expand.walking.walk import Walk

looptime = pytest.mark.looptime(start=0)
START = CommitLog("s").checkpoint


@dataclass
class Instances:
    """Item instances, each finished when the test says so."""

    finished: int = 0
    looks: int = 0

    async def count(self) -> int:
        self.looks += 1
        return self.finished


def paced(numbers: PagedNumbers, pace: Pace, **options: Any) -> Walk:
    walk = make_walk(numbers, MemoryStager(), START, pace, **{"batch_interval": 0.1, **options})
    walk.start()
    return walk


@pytest.mark.asyncio
@looptime
async def test_no_more_is_asked_for_and_staged_than_may_be_pending() -> None:
    numbers, instances = PagedNumbers(pages=10, size=2), Instances()
    walk = paced(numbers, Pace(max_pending=4, finished=instances.count), batch_size=4)
    for finished in range(0, 20, 2):
        instances.finished = finished
        await asyncio.sleep(3 * LONGEST_PAUSE)
        assert walk.items == min(20, finished + 4)
        assert len(numbers.given) == min(10, 2 + finished // 2), "the source is left alone as well"
    assert (await walk.all_batches()).ended
    await walk.close()


@pytest.mark.asyncio
@looptime
async def test_of_a_page_larger_than_that_only_a_part_is_staged() -> None:
    numbers, instances = PagedNumbers(pages=2, size=10), Instances()
    walk = paced(numbers, Pace(max_pending=3, finished=instances.count), batch_size=3)
    await asyncio.sleep(60)
    assert walk.items == 3
    instances.finished = 2
    await asyncio.sleep(60)
    assert walk.items == 5
    assert numbers.given == [0]
    await walk.close()


@pytest.mark.asyncio
@looptime
@pytest.mark.parametrize("rate", [0.5, 3, 40])
async def test_items_come_at_the_rate(rate: float) -> None:
    walk = paced(PagedNumbers(pages=500, size=10), Pace(rate_limit=rate), batch_size=10)
    await asyncio.sleep(1)
    for seconds in (10, 20, 40):
        before = walk.items
        await asyncio.sleep(seconds)
        assert walk.items - before == pytest.approx(rate * seconds, rel=0.1, abs=1 + rate / 2)
    await walk.close()


@dataclass
class Items:
    """Results that come in the test's order."""

    states: dict[int, str | None] = field(default_factory=dict)
    given: int = 0
    hurried: int = 0

    async def finished(self) -> set[int]:
        return {number for number, state in self.states.items() if state in ENDED_STATES and number}

    async def result(self, number: int) -> Any:
        return f"result {number}" if self.states[number] == "success" else None

    def hurry(self) -> None:
        self.hurried += 1

    def results(self, *, waits: bool = True) -> FinishedResults:
        return FinishedResults(self.finished, self.result, lambda: self.given, self.hurry, waits=waits)


@pytest.mark.asyncio
@looptime
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
