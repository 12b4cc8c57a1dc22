"""A stream that is cut into windows: where each begins and ends, in virtual time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deferred_expand.streams.commit_index import locate_all
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import Checkpoint
from deferred_expand.streams.page import START, Page
from deferred_expand.streams.units import Unit
from deferred_expand.walking.pace import Pace
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from deferred_expand.streams.commit_index import IndexPage


class Kept:
    """What is committed of a stream, and the windows that can be read of it."""

    def __init__(self, unit: Unit, after: Kept | None = None) -> None:
        self.unit = unit
        self.stager = MemoryStager()
        position = after.log.position.of_open_window if after else START
        self.log: CommitLog = CommitLog("s", unit=unit.kind, position=position)
        self.pages: dict[str, IndexPage] = {}
        self.times: list[float] = []

    async def walk(
        self, source: PagedNumbers, *, pace: Pace | None = None, stops: int | None = None, **more: Any
    ) -> None:
        """:param stops: commits after which it dies."""
        policy: dict[str, Any] = {"unit": self.unit, "batch_size": 4, "batch_interval": 1, **more}
        walk = make_walk(source, self.stager, self.log.checkpoint, pace, **policy)
        walk.start()
        commits = 0
        while not (self.log.ended or self.log.failure) and commits != stops:
            plan = plan_commit(self.log, await walk.batches(), try_number=1)
            if plan is None:
                continue
            closed = plan.log.items - self.log.items
            self.times += [asyncio.get_running_loop().time()] * closed
            self.log = CommitLog.from_json(plan.log.to_json())
            self.pages.update(plan.pages)
            assert walk.goes_on_from(self.log.checkpoint)
            commits += 1
        await walk.close()

    @property
    def windows(self) -> list[list[Any]]:
        return [self.read(number) for number in range(1, self.log.items + 1)]

    def read(self, number: int) -> list[Any]:
        names = locate_all(self.log.index, number, lambda name: self.pages[name])
        assert names is not None
        return [eval(text) for name in names for text in self.stager.batches[name]]


def cut(everything: list[Any], size: int) -> list[list[Any]]:
    return [everything[start : start + size] for start in range(0, len(everything), size)]


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("takes_cursor", [True, False])
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(0, 7), st.integers(1, 13), st.lists(st.integers(0, 3), max_size=6))
async def test_each_has_as_many_items_whatever_the_pages_and_whenever_the_walk_dies(
    takes_cursor: bool, pages: int, size: int, window: int, deaths: list[int]
) -> None:
    kept = Kept(Unit("window", window))
    for stops in (*deaths, None):
        source = PagedNumbers(pages=pages, size=size, delay=0.3, takes_cursor=takes_cursor)
        await kept.walk(source, stops=stops)
    assert kept.windows == cut(list(range(pages * size)), window)
    assert kept.log.ended


@pytest.mark.asyncio
@virtual_time
async def test_many_are_found_through_the_index() -> None:
    kept = Kept(Unit("window", 9))
    await kept.walk(PagedNumbers(pages=1300, size=4))
    assert kept.log.batches > 1500
    assert len(kept.log.to_json()["index"]) == 3  # type: ignore[arg-type]
    assert kept.windows == cut(list(range(5200)), 9)


@pytest.mark.asyncio
@virtual_time
async def test_one_closes_so_many_seconds_after_its_first_item() -> None:
    kept = Kept(Unit("window", 10, every=5))
    await kept.walk(PagedNumbers(pages=7, size=1, delay=2))
    assert kept.windows == [[0, 1, 2], [3, 4, 5], [6]]
    assert kept.times == pytest.approx([7, 13, 14], abs=0.2)


@pytest.mark.asyncio
@virtual_time
async def test_its_time_goes_on_when_another_walk_does() -> None:
    kept = Kept(Unit("window", 10, every=3600))
    await kept.walk(PagedNumbers(pages=3, size=1, delay=1), stops=1)
    since = kept.log.position.window.since
    await kept.walk(PagedNumbers(pages=3, size=1, delay=1), stops=1)
    assert kept.log.position.window.since == since
    assert kept.log.position.window.items == 2


@pytest.mark.asyncio
@virtual_time
async def test_one_that_a_failed_source_has_left_open_is_filled_by_the_next() -> None:
    kept = Kept(Unit("window", 5))
    await kept.walk(PagedNumbers(pages=4, size=2, breaks={3: 1}))
    assert kept.log.failure is not None
    assert kept.windows == [[0, 1, 2, 3, 4]]
    kept.log = CommitLog.from_json({**kept.log.to_json(), "failure": None, "failed_try": None})
    await kept.walk(PagedNumbers(pages=4, size=2))
    assert kept.windows == [[0, 1, 2, 3, 4], [5, 6, 7]]


@pytest.mark.asyncio
@virtual_time
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.lists(st.integers(0, 3), max_size=5))
async def test_the_next_run_goes_on_with_what_no_closed_window_had(
    size: int, window: int, lengths: list[int]
) -> None:
    kept, given = Kept(Unit("window", window)), []
    for stops in (*lengths, None):
        await kept.walk(PagedNumbers(pages=6, size=size, delay=0.3), stops=stops)
        given += [item for of_one in kept.windows for item in of_one]
        assert all(len(of_one) == window for of_one in kept.windows[:-1])
        kept = Kept(Unit("window", window), after=kept)
    assert given == list(range(6 * size))


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("window", [3, 100])
async def test_a_stream_whose_time_is_over_ends_with_what_there_is(window: int) -> None:
    kept = Kept(Unit("window", window))
    await kept.walk(PagedNumbers(pages=1000, size=1, delay=2), ends_at=time.time() + 9)
    assert kept.log.ended
    assert asyncio.get_running_loop().time() == pytest.approx(9, abs=0.2)
    assert kept.windows == cut([0, 1, 2, 3], window)


@pytest.mark.asyncio
@virtual_time
async def test_the_source_is_asked_for_no_more_while_as_many_as_allowed_are_not_finished() -> None:
    finished, size = 0, 4

    async def count() -> int:
        return finished * size

    kept, source = Kept(Unit("window", size)), PagedNumbers(pages=20, size=3)
    walking = asyncio.create_task(kept.walk(source, pace=Pace(2 * size, None, count)))
    await asyncio.sleep(30)
    assert kept.windows == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert source.given == [0, 1, 2]
    finished = 1
    await asyncio.sleep(30)
    assert len(kept.windows) == 3
    finished = 100
    await walking
    assert kept.windows == cut(source.everything, size)


class Listening(PagedNumbers):
    """Gives a page, and waits until that is a window."""

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        for number in range(cursor or 0, 3):
            yield Page([number, number], cursor=number + 1)
            self.walk.hurry()  # type: ignore[attr-defined]
            await asyncio.sleep(5)


@pytest.mark.asyncio
@virtual_time
async def test_who_waits_for_results_has_a_window_of_what_there_is() -> None:
    source, stager = Listening(), MemoryStager()
    walk = make_walk(source, stager, Checkpoint("s"), unit=Unit("window", 100), batch_interval=60)
    source.walk = walk  # type: ignore[attr-defined]
    walk.start()
    log, times = CommitLog("s", unit="window"), []
    while not log.ended:
        plan = plan_commit(log, await walk.batches(), 1)
        assert plan is not None
        times += [asyncio.get_running_loop().time()] * (plan.log.items - log.items)
        log = plan.log
        assert walk.goes_on_from(log.checkpoint)
    await walk.close()
    assert times == pytest.approx([0, 5, 10], abs=0.2)
