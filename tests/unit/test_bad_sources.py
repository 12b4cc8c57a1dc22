"""Sources that do not keep their part: each has an outcome, and a name in what is said of it."""

from __future__ import annotations

import asyncio
import logging
import time
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.page import Page
from deferred_expand.walking.clock import TimeLimits
from deferred_expand.walking.policy import WalkPolicy
from deferred_expand.walking.walk import Walk
from deferred_expand.walking.watchdog import LoopWatchdog
from tests.unit.helpers import MemoryStager, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from deferred_expand.streams.events import BatchEvent

START = CommitLog("s").checkpoint
pytestmark = pytest.mark.asyncio


def make_walk(source: Any, stager: MemoryStager | None = None, **options: Any) -> Walk:
    policy = WalkPolicy(
        **{
            "batch_size": 5,
            "batch_interval": 1.0,
            "source_retries": 0,
            "resumable": True,
            "walk_ahead": float("inf"),
            "walk_ahead_bytes": float("inf"),
            "max_batch_bytes": 1_000_000,
            "limits": TimeLimits("source of task 'users'"),
            **options,
        }
    )
    walk = Walk(source, stager or MemoryStager(), policy, START)
    walk.start()
    return walk


async def whole(source: Any, **options: Any) -> tuple[list[Any], BatchEvent]:
    stager = MemoryStager()
    walk = make_walk(source, stager, **options)
    event = await walk.all_batches()
    await walk.close()
    return stager.items(event), event


@virtual_time
@pytest.mark.parametrize("most", [1, 4, 5, 12, 13])
@pytest.mark.parametrize("paged", [True, False])
async def test_a_source_that_never_ends_is_closed_at_max_items(most: int, paged: bool) -> None:
    closed = []

    async def endless(cursor: Any) -> AsyncGenerator[Any, None]:
        number = cursor or 0
        try:
            while True:
                items = list(range(3 * number, 3 * number + 3))
                number += 1
                if paged:
                    yield Page(items, cursor=number)
                else:
                    for item in items:
                        yield item
        finally:
            closed.append(number)

    items, event = await whole(endless, max_items=most)
    assert items == list(range(most))
    assert event.ended
    assert closed


@virtual_time
async def test_a_cursor_that_stands_still_is_named_and_ends_the_stream() -> None:
    async def stuck(cursor: Any) -> AsyncGenerator[Any, None]:
        yield Page([0, 1], cursor="a")
        while True:
            yield Page([2, 3], cursor="b")

    items, event = await whole(stuck)
    assert items == [0, 1, 2, 3]
    assert event.failure is not None
    assert "source of task 'users' gave a cursor a second time, with 2 item(s)" in event.failure.message


@virtual_time
@pytest.mark.parametrize("pages", [2, 3, 10, 100])
async def test_cursors_that_go_in_circles_are_named_and_end_the_stream(pages: int) -> None:
    async def circling(cursor: Any) -> AsyncGenerator[Any, None]:
        number = 0
        while True:
            yield Page([number], cursor=number % pages)
            number += 1

    items, event = await whole(circling)
    assert items == list(range(len(items)))
    assert len(items) <= 5 * pages
    assert event.failure is not None
    assert f"a second time, with {pages} item(s) in between" in event.failure.message


@virtual_time
async def test_empty_pages_may_keep_their_cursor_and_cost_no_memory() -> None:
    async def patient(cursor: Any) -> AsyncGenerator[Any, None]:
        for number in range(10_000):
            yield Page([], cursor="waiting" if number % 2 else number)
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        yield Page(["at last"], cursor="done")

    tracemalloc.start()
    try:
        items, event = await whole(patient)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert items == ["at last"]
    assert event.ended
    assert len(event.counts) == 1
    assert peak < 1_000_000


@virtual_time
async def test_what_it_raises_while_being_closed_harms_nobody() -> None:
    async def bad_loser(cursor: Any) -> AsyncGenerator[Any, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("while being closed")

    walk = make_walk(bad_loser)
    assert (await walk.batches()).counts == (1,)
    await walk.close()


@virtual_time
async def test_one_that_ignores_cancellation_is_named_and_left(caplog: pytest.LogCaptureFixture) -> None:
    given = 0

    async def stubborn(cursor: Any) -> AsyncGenerator[Any, None]:
        nonlocal given
        while given < 100:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
            if given:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
            given += 1
            yield given

    walk = make_walk(stubborn)
    assert (await walk.batches()).counts == (1,)
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(walk.close(), 30)
    assert "source of task 'users' ignores that it is cancelled" in caplog.text
    await asyncio.sleep(300)
    assert given <= 2, "what it gives is not taken any more"


async def test_one_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def blocking(cursor: Any) -> AsyncGenerator[Any, None]:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            sum(range(1000))
        yield 1

    LoopWatchdog().watch()
    with caplog.at_level(logging.WARNING):
        await whole(blocking)
    assert "source of task 'users' blocks the event loop of all triggers" in caplog.text
    assert "in blocking" in caplog.text, "and the line where it stands"
