"""Walks outlive their triggers, and no longer than they are wanted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deferred_expand.streams.events import Checkpoint
from deferred_expand.walking.registry import WATCH_INTERVAL, WalkRegistry
from deferred_expand.walking.walk import WalkClosed
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk, virtual_time

pytestmark = [pytest.mark.asyncio, virtual_time]

START = Checkpoint("s")


class Streams:
    """A registry, and the sources that its walks opened."""

    def __init__(self, unsure: BaseException | None = None, answers_in: float = 0, **source: Any) -> None:
        self._answers_in = answers_in
        self.registry = WalkRegistry()
        self.sources: list[PagedNumbers] = []
        self.is_wanted = True
        self._unsure = unsure
        self._source = source

    def hold(self, checkpoint: Checkpoint = START, generation: int = 1, idle_timeout: float = 60) -> Any:
        def open_walk() -> Any:
            source = PagedNumbers(**self._source)
            self.sources.append(source)
            walk = make_walk(source, MemoryStager(), checkpoint)
            return walk

        async def wanted() -> bool:
            if self._unsure is not None:
                raise self._unsure
            await asyncio.sleep(self._answers_in)
            return self.is_wanted

        return self.registry.hold("key", generation, checkpoint, open_walk, wanted, idle_timeout)


async def test_the_walk_goes_on_between_two_triggers() -> None:
    streams = Streams(delay=1)
    async with streams.hold():
        await asyncio.sleep(1.5)
    await asyncio.sleep(10)
    async with streams.hold() as walk:
        assert (await walk.batches()).ended
    assert len(streams.sources) == 1
    assert streams.sources[0].given == [0, 1, 2, 3]


async def test_a_walk_nobody_asks_for_is_closed_after_the_idle_timeout() -> None:
    streams = Streams(pages=1000, delay=1)
    async with streams.hold(idle_timeout=10):
        await asyncio.sleep(30)
    await asyncio.sleep(9)
    assert len(streams.registry) == 1
    await asyncio.sleep(2)
    assert len(streams.registry) == 0
    assert streams.sources[0].closed == 1


async def test_a_walk_that_is_no_longer_wanted_is_closed_soon() -> None:
    streams = Streams(pages=1000, delay=1)
    async with streams.hold(idle_timeout=1000):
        pass
    streams.is_wanted = False
    await asyncio.sleep(WATCH_INTERVAL + 0.1)
    assert streams.sources[0].closed == 1


async def test_a_held_walk_is_not_closed() -> None:
    streams = Streams(pages=1000, delay=1)
    async with streams.hold(idle_timeout=5):
        pass
    async with streams.hold(idle_timeout=5):
        streams.is_wanted = False
        await asyncio.sleep(100)
        assert streams.sources[0].closed == 0


async def test_a_walk_that_a_trigger_takes_while_it_is_being_asked_about_goes_on() -> None:
    streams = Streams(pages=1000, delay=1, answers_in=5)
    async with streams.hold(idle_timeout=1000):
        pass
    streams.is_wanted = False  # was the answer, when it was asked for
    await asyncio.sleep(WATCH_INTERVAL + 1)
    async with streams.hold(idle_timeout=1000):
        await asyncio.sleep(10)
        assert [source.closed for source in streams.sources] == [0]


async def test_another_checkpoint_opens_a_new_walk_and_closes_the_old_one() -> None:
    streams = Streams(pages=1000, delay=1)
    async with streams.hold():
        await asyncio.sleep(2)
    async with streams.hold(Checkpoint("s", batches=7, items=70)):
        assert len(streams.registry) == 1
    assert [source.closed for source in streams.sources] == [1, 0]


async def test_a_new_try_does_not_take_over_a_failed_walk() -> None:
    streams = Streams(breaks={0: 1})
    async with streams.hold(generation=1) as walk:
        assert (await walk.batches()).failure is not None
    async with streams.hold(generation=1) as again:
        assert again is walk, "the same try hears of the failure, also when its trigger died meanwhile"
    async with streams.hold(generation=2) as new:
        assert new is not walk


async def test_a_new_try_takes_over_a_walk_that_is_well() -> None:
    streams = Streams(pages=1000, delay=1)
    async with streams.hold(generation=1) as walk:
        pass
    async with streams.hold(generation=2) as again:
        assert again is walk


async def test_of_two_triggers_at_once_one_opens_the_walk_and_the_other_joins_it() -> None:
    streams = Streams(pages=1000, delay=1, closes_in=3)
    overtaken = Checkpoint("s", batches=7, items=70)

    async def trigger() -> Any:
        async with streams.hold(overtaken, idle_timeout=4) as walk:
            await asyncio.sleep(5)
            return walk

    async with streams.hold():
        await asyncio.sleep(2)
    first, second = await asyncio.gather(trigger(), trigger())
    assert first is second
    assert [source.closed for source in streams.sources] == [1, 0]
    await asyncio.sleep(10)
    assert [source.closed for source in streams.sources] == [1, 1]
    assert len(streams.registry) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_trigger_whose_walk_another_one_replaces_is_told() -> None:
    streams = Streams(pages=1000, delay=1)
    async with streams.hold() as walk:
        waiting = asyncio.create_task(walk.all_batches())
        await asyncio.sleep(1)
        async with streams.hold(Checkpoint("s", batches=7, items=70)):
            with pytest.raises(WalkClosed):
                await waiting


async def test_a_trigger_cancelled_while_it_closes_a_walk_is_cancelled() -> None:
    streams = Streams(pages=1000, delay=1, closes_in=3)
    async with streams.hold():
        await asyncio.sleep(2)

    async def trigger() -> None:
        async with streams.hold(Checkpoint("s", batches=7, items=70)):
            raise AssertionError("it was cancelled before")

    task = asyncio.create_task(trigger())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(5)
    assert [source.closed for source in streams.sources] == [1], "closing is final all the same"


async def test_a_watch_that_is_cancelled_by_what_it_asks_closes_its_walk() -> None:
    streams = Streams(pages=1000, delay=1, unsure=asyncio.CancelledError())
    async with streams.hold(idle_timeout=1000):
        pass
    await asyncio.sleep(WATCH_INTERVAL + 1)
    assert [source.closed for source in streams.sources] == [1]


async def test_a_walk_of_which_nobody_can_tell_whether_it_is_wanted_goes_on() -> None:
    streams = Streams(pages=1000, delay=1, unsure=ConnectionError("no answer"))
    async with streams.hold(idle_timeout=30):
        pass
    await asyncio.sleep(29)
    assert streams.sources[0].closed == 0
    await asyncio.sleep(3)
    assert streams.sources[0].closed == 1, "but for no longer than any other"
