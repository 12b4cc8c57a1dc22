"""A walk ends whole, at whatever turn of the event loop: no task, thread or source of it is left."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers.base import TriggerEvent

from deferred_expand.sources.function import walk_function
from deferred_expand.sources.hops import walk_trigger
from deferred_expand.sources.opening import open_source
from deferred_expand.streams.events import Checkpoint
from deferred_expand.streams.ref import StreamRef
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.threads import Threads
from deferred_expand.walking.walk import Walk, WalkClosed
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk
from tests.unit.loop_turns import TurnLoop, run_with
from tests.unit.operators import PagingOperator, TellTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

START = Checkpoint("s")
ITEMS = 6


class Source(PagedNumbers):
    """One of its pages breaks, and where it can, it has no end."""

    in_threads = False
    cancelled = 0

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        self.opened_at.append(0)
        pages = PagedNumbers(self.pages, self.size, breaks=self.breaks)
        try:
            async with aclosing(pages.open(cursor)) as opened:
                async for page in opened:
                    yield page
            await asyncio.Event().wait()
        finally:
            self.closed += 1


class SlowToClose(Source):
    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        self.opened_at.append(0)
        pages = Source(self.pages, self.size)
        try:
            async with aclosing(pages.open(cursor)) as opened:
                async for page in opened:
                    yield page
                    await self._sleep(0.5)
        finally:
            try:
                await self._sleep(0)
                await self._sleep(1)
            finally:
                self.closed += 1

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Triggers(Source):
    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        pages = super().open

        class Numbers(TellTrigger):
            async def run(self) -> AsyncIterator[TriggerEvent]:
                async with aclosing(pages(cursor)) as opened:
                    async for page in opened:
                        yield TriggerEvent(page)

        async with aclosing(walk_trigger(Numbers)) as items:
            async for item in items:
                yield item


class InThreads(Source):
    in_threads = True

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        threads = Threads("source")
        try:
            async with aclosing(walk_function(self._numbers, {}, None, threads)) as items:
                async for item in items:
                    yield item
        finally:
            threads.close()

    def _numbers(self) -> Iterator[int]:
        self.opened_at.append(0)
        try:
            yield from self.everything
        finally:
            self.closed += 1


class OpenAtOnce(InThreads):
    """What its function returns is to be closed, also when nobody has asked it for an item."""

    def _numbers(self) -> Iterator[int]:
        self.opened_at.append(0)
        return _Opened(self)


class _Opened:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._numbers = iter(source.everything)
        self._is_open = True

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return next(self._numbers)

    def close(self) -> None:
        self._source.closed += self._is_open
        self._is_open = False


class Operators(InThreads):
    """A trigger in the loop and a method in a thread, in turns."""

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        threads, ref = Threads("source"), StreamRef("dag", "run", "users", "insert")
        chain = open_source(PagingOperator, {"pages": 3}, cursor, threads, ref=ref, try_number=1, outer=None)
        self.opened_at.append(0)
        try:
            async with aclosing(chain) as pages:
                async for page in pages:
                    yield page
        finally:
            threads.close()
            self.closed += 1


SOURCES = [Source, SlowToClose, Triggers, InThreads, OpenAtOnce, Operators]


async def commit_all(walk: Walk) -> None:
    """What a trigger does with a walk, until it has given what it can, or is closed."""
    batches = items = 0
    walk.start()
    with suppress(WalkClosed):
        while True:
            event = await walk.batches()
            batches, items = batches + len(event.counts), items + sum(event.counts)
            checkpoint = Checkpoint("s", batches, items, event.position, walk.writer)
            if items == ITEMS or not walk.goes_on_from(checkpoint):
                break


def new_walk(kind: type[Source]) -> tuple[Source, Walk]:
    source = kind(pages=ITEMS, size=1, breaks={} if kind.in_threads else {4: 1})
    pace = Pace(rate_limit=4) if kind is SlowToClose else None
    how = {"batch_size": 2, "source_retries": 1, "batch_interval": 1.0, "walk_ahead": 2}
    return source, make_walk(source, MemoryStager(), START, pace, **how)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_walk_closed_at_any_turn_leaves_nothing_behind(kind: type[Source]) -> None:
    turn = turns = 0
    while turn <= turns:
        turn += 1
        source, walk = new_walk(kind)

        def close(loop: TurnLoop, walk: Walk = walk) -> Any:
            return loop.create_task(walk.close())

        turns = run_with(commit_all(walk), turn, close, virtual_time=not kind.in_threads)
        assert source.closed == len(source.opened_at), f"at turn {turn}"
        assert source.cancelled <= 1, f"its closing was broken off at turn {turn}"
    assert turn > 20


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_loop_that_ends_at_any_turn_ends_its_walk(kind: type[Source], backwards: bool) -> None:
    turn = turns = 0
    while turn <= turns:
        turn += 1
        source, walk = new_walk(kind)
        opened: list[int] = []

        def end_all(loop: TurnLoop, source: Source = source, opened: list[int] = opened) -> Any:
            """As ``asyncio.run()`` does, in one order or the other."""
            opened.append(len(source.opened_at))
            tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name(), reverse=backwards)
            for task in tasks:
                task.cancel()
            return asyncio.gather(*tasks, return_exceptions=True)

        turns = run_with(commit_all(walk), turn, end_all, virtual_time=not kind.in_threads)
        assert source.closed == len(source.opened_at), f"at turn {turn}"
        assert source.cancelled <= 1, f"its closing was broken off at turn {turn}"
        assert kind.in_threads or opened == [len(source.opened_at)], f"opened again after turn {turn}"
    assert turn > 20


OPEN_WALKS = """
import asyncio
from deferred_expand.streams.events import Checkpoint
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk

async def leave_open(turns):
    make_walk(PagedNumbers(pages=10**9, size=1), MemoryStager(), Checkpoint("s"), walk_ahead=20).start()
    for _ in range(turns):
        await asyncio.sleep(0)

for turns in range(60):
    asyncio.run(leave_open(turns))
"""


def test_a_process_that_leaves_its_walks_open_ends() -> None:
    done = subprocess.run([sys.executable, "-c", OPEN_WALKS], timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.asyncio
async def test_a_closed_walk_cannot_be_started() -> None:
    source, walk = new_walk(Source)
    await walk.close()
    walk.start()
    with pytest.raises(WalkClosed):
        await walk.batches()
    assert not source.opened_at
