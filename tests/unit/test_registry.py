"""Walks outlive their triggers, and no longer than they are wanted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deferred_expand.streams.events import Checkpoint
from deferred_expand.walking.registry import WATCH_INTERVAL, WalkRegistry
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime(start=0)]

START = Checkpoint("s")


class Streams:
    """A registry, and the sources that its walks opened."""

    def __init__(self, **source: Any) -> None:
        self.registry = WalkRegistry()
        self.sources: list[PagedNumbers] = []
        self.is_wanted = True
        self._source = source

    def hold(self, checkpoint: Checkpoint = START, generation: int = 1, idle_timeout: float = 60) -> Any:
        def open_walk() -> Any:
            source = PagedNumbers(**self._source)
            self.sources.append(source)
            walk = make_walk(source, MemoryStager(), checkpoint)
            return walk

        async def wanted() -> bool:
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
        pass
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
