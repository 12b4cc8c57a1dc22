"""When what a source has given becomes a batch, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.streams.events import Checkpoint
from deferred_expand.streams.page import Page
from deferred_expand.streams.units import BATCH
from tests.unit.helpers import Committer, MemoryStager, PagedNumbers, after, make_walk, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from deferred_expand.walking.walk import Walk

pytestmark = [pytest.mark.asyncio, virtual_time]

START = Checkpoint("s")
ROUNDING = 0.06  # seconds: what a source gives within 0.05 s stays together


class Timed(PagedNumbers):
    """One item at each of the given times."""

    def __init__(self, *times: float) -> None:
        super().__init__()
        self.times = times

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        loop = asyncio.get_running_loop()
        for number, time in enumerate(self.times):
            if number >= (cursor or 0):
                await asyncio.sleep(max(0.0, time - loop.time()))
                yield Page([number], cursor=number + 1)


async def committed(source: PagedNumbers, *, takes: float = 0.0, **policy: Any) -> Committer:
    walk: Walk = make_walk(source, MemoryStager(), START, **{"batch_size": 100, **policy})
    walk.start()
    committer = Committer(walk, takes)
    await committer.run(START)
    await walk.close()
    return committer


async def test_the_first_page_does_not_wait_for_others() -> None:
    commits = (await committed(PagedNumbers(pages=1, size=2, delay=3), batch_interval=60)).commits
    assert [time for time, _ in commits] == pytest.approx([3], abs=ROUNDING)


async def test_pages_rarer_than_the_interval_are_batches_of_their_own_at_once() -> None:
    commits = (await committed(PagedNumbers(pages=4, size=2, delay=1.5), batch_interval=1)).commits
    assert [time for time, _ in commits] == pytest.approx([1.5, 3, 4.5, 6], abs=ROUNDING)
    assert {counts for _, counts in commits} == {(2,)}


async def test_pages_more_frequent_than_that_come_together_once_in_an_interval() -> None:
    commits = (await committed(PagedNumbers(pages=40, size=1, delay=0.25), batch_interval=1)).commits
    assert len(commits) == pytest.approx(10, abs=1)
    times = [time for time, _ in commits[:-1]]
    assert [later - time for time, later in pairwise(times)] == pytest.approx(
        [1] * (len(times) - 1), abs=ROUNDING
    )


async def test_what_is_given_within_a_moment_stays_together() -> None:
    commits = (await committed(Timed(1, 1.01, 1.02, 5), batch_interval=1)).commits
    assert [counts for _, counts in commits] == [(3,), (1,)]


async def test_batches_grow_where_commits_take_long() -> None:
    committer = await committed(PagedNumbers(pages=60, size=1, delay=0.1), batch_interval=0.2, takes=2)
    counts = [count for _, batches in committer.commits for count in batches]
    assert sum(counts) == 60
    assert len(counts) <= 5, "the first, and then what comes in during each commit"


async def test_a_full_batch_waits_for_nothing() -> None:
    committer = await committed(
        PagedNumbers(pages=20, size=5, delay=0.1), batch_size=5, batch_interval=60, takes=2
    )
    assert [count for _, batches in committer.commits for count in batches] == [5] * 20


async def test_a_worker_gets_what_is_read_by_its_time_as_one_batch() -> None:
    walk = make_walk(PagedNumbers(pages=50, size=1, delay=0.5), MemoryStager(), START, batch_size=100)
    walk.start()
    loop, checkpoint = asyncio.get_running_loop(), START
    for expected in (20, 26):  # the walk goes on while the worker commits, which takes three seconds
        event = await walk.batches_until(loop.time() + 10.2)
        assert event.counts == (expected,)
        await asyncio.sleep(3)
        checkpoint = after(checkpoint, event)
        assert walk.goes_on_from(checkpoint)
    await walk.close()


async def test_a_worker_gets_full_batches_and_the_rest() -> None:
    walk = make_walk(PagedNumbers(pages=50, size=1, delay=0.5), MemoryStager(), START, batch_size=8)
    walk.start()
    assert (await walk.batches_until(10.2)).counts == (8, 8, 4)
    await walk.close()


async def test_a_worker_is_not_asked_before_there_is_something() -> None:
    walk = make_walk(Timed(30, 31, 60), MemoryStager(), START)
    walk.start()
    assert (await walk.batches_until(10)).counts == (1,)
    assert asyncio.get_running_loop().time() == pytest.approx(30, abs=ROUNDING)
    await walk.close()


async def test_an_expander_that_takes_over_from_a_worker_gets_what_there_is() -> None:
    walk = make_walk(Timed(1, 2, 3, 60), MemoryStager(), START)
    walk.start()
    waiting = asyncio.create_task(walk.batches_until(50))
    await asyncio.sleep(5)
    waiting.cancel()
    assert (await walk.batches()).counts == (3,)
    assert asyncio.get_running_loop().time() == pytest.approx(5, abs=ROUNDING)
    await walk.close()


@pytest.mark.parametrize("write_time", [0, 1])
async def test_what_is_asked_for_at_once_is_staged_though_another_waits_for_its_commit(
    write_time: int,
) -> None:
    walk = make_walk(Timed(1, 2, 3, 60), MemoryStager(write_time=write_time), START, batch_interval=30)
    walk.start()
    await asyncio.sleep(3.5)
    walk.hurry()
    await asyncio.sleep(3)
    assert (await walk.batches()).counts == (1, 2)
    await walk.close()


async def test_a_batch_counts_as_one_where_an_instance_has_all_of_it() -> None:
    source = PagedNumbers(pages=9, size=3, delay=0.5)
    walk: Walk = make_walk(source, MemoryStager(), START, batch_size=4, batch_interval=2, unit=BATCH)
    walk.start()
    committer = Committer(walk, 0.0)
    await committer.run(START)
    await walk.close()
    assert {count for _, counts in committer.commits for count in counts} == {1}
    assert len(committer.commits) > 3


async def test_how_far_a_walk_goes_ahead_is_of_items_also_where_batches_count() -> None:
    stager = MemoryStager()
    walk: Walk = make_walk(
        PagedNumbers(pages=50, size=4), stager, START, batch_size=4, unit=BATCH, walk_ahead=12
    )
    walk.start()
    await asyncio.sleep(5)
    event = await walk.batches()
    await walk.close()
    assert event.counts == (1, 1, 1)
