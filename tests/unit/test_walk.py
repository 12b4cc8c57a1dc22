"""A walk, in virtual time and with a store in memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.exceptions import TooManyItemsFailed
from deferred_expand.streams.events import BatchEvent, Checkpoint
from deferred_expand.streams.page import Page
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.retry import SourceRetry
from deferred_expand.walking.walk import Walk
from tests.unit.helpers import Bad, MemoryStager, PagedNumbers, after, make_walk, virtual_time, walk_policy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.asyncio, virtual_time]

START = Checkpoint("s")


def now() -> float:
    return asyncio.get_running_loop().time()


async def walk_to_end(walk: Walk) -> BatchEvent:
    walk.start()
    try:
        return await walk.all_batches()
    finally:
        await walk.close()


async def test_items_keep_their_order_in_batches_of_the_size() -> None:
    source, stager = PagedNumbers(), MemoryStager()
    event = await walk_to_end(make_walk(source, stager, START))
    assert stager.items(event) == source.everything
    assert event.counts == (5, 5, 2)
    assert event.ended


async def test_a_batch_is_cut_where_the_stager_cuts_it() -> None:
    source, stager = PagedNumbers(), MemoryStager(max_items=2)
    event = await walk_to_end(make_walk(source, stager, START))
    assert event.counts == (2, 2, 1, 2, 2, 1, 2)
    assert stager.items(event) == source.everything


async def test_pages_are_asked_for_while_batches_are_written() -> None:
    source, stager = PagedNumbers(pages=4, size=5, delay=1), MemoryStager(write_time=1)
    event = await walk_to_end(make_walk(source, stager, START))
    assert event.ended
    assert now() == pytest.approx(5, abs=0.01), "four pages and one write, not four of each"


async def test_a_walk_pauses_when_it_is_far_enough_ahead() -> None:
    source, stager = PagedNumbers(pages=20, size=5), MemoryStager()
    walk = make_walk(source, stager, START, walk_ahead=10)
    walk.start()
    await asyncio.sleep(100)
    event = await walk.batches()
    assert event.counts == (5, 5)
    assert len(source.given) == 4, "two batches are staged, two more are in memory"

    assert walk.goes_on_from(after(START, event))
    await asyncio.sleep(100)
    assert (await walk.batches()).counts == (5, 5)
    await walk.close()
    assert source.closed == 1


async def test_a_walk_pauses_when_what_is_staged_is_large_enough() -> None:
    source, stager = PagedNumbers(pages=20, size=5), MemoryStager()
    walk = make_walk(source, stager, START, walk_ahead_bytes=12)  # an item is a digit or two
    walk.start()
    await asyncio.sleep(100)
    event = await walk.batches()
    assert event.counts == (5, 5, 5), "of 5, 5 and 10 bytes"
    assert walk.goes_on_from(after(START, event))
    await walk.close()


async def test_a_broken_source_is_opened_again_from_its_cursor() -> None:
    source, stager = PagedNumbers(breaks={2: 2}), MemoryStager()
    event = await walk_to_end(make_walk(source, stager, START, source_retries=2))
    assert source.opened_at == [0, 2, 2]
    assert stager.items(event) == source.everything
    assert event.failure is None


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError("by what it awaits"), KeyError(1)])
async def test_whatever_a_source_raises_is_its_own_failure(error: BaseException) -> None:
    opened = 0

    async def source(cursor: Any) -> AsyncGenerator[Any, None]:
        nonlocal opened
        opened += 1
        yield 1
        raise error

    policy = make_walk(PagedNumbers(), MemoryStager(), START, source_retries=1)._policy
    walk = Walk(source, MemoryStager(), policy, START)
    event = await walk_to_end(walk)
    assert event.failure is not None
    assert f"the source raised {error!r}" in event.failure.message
    assert opened == 2, "it was opened again, as after any error"
    assert event.counts == (1,)


async def test_a_source_that_takes_no_cursor_is_passed_over() -> None:
    source, stager = PagedNumbers(breaks={2: 1}, takes_cursor=False), MemoryStager()
    event = await walk_to_end(make_walk(source, stager, START, source_retries=1))
    assert source.opened_at == [0, 0]
    assert stager.items(event) == source.everything


async def test_a_source_that_stays_broken_gives_what_it_gave_and_why_it_broke() -> None:
    source, stager = PagedNumbers(breaks={2: 9}), MemoryStager()
    event = await walk_to_end(make_walk(source, stager, START, source_retries=1))
    assert stager.items(event) == source.everything[:6]
    assert not event.ended
    assert event.failure is not None
    assert event.failure.message == "the source raised LookupError('page 2 broke')"
    assert "in open" in event.failure.traceback


async def test_a_source_that_shrank_is_told() -> None:
    source, stager = PagedNumbers(takes_cursor=False), MemoryStager()
    first = await walk_to_end(make_walk(source, stager, START))
    shorter = PagedNumbers(pages=2, takes_cursor=False)
    event = await walk_to_end(make_walk(shorter, stager, after(START, first)))
    assert event.counts == ()
    assert event.failure is not None
    assert "6 item(s) before the place reached earlier" in event.failure.message


async def test_a_bad_item_ends_the_walk_after_the_items_before_it() -> None:
    class BadThird(PagedNumbers):
        async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
            yield Page([1, 2, Bad(), 4])

    stager = MemoryStager()
    event = await walk_to_end(make_walk(BadThird(), stager, START, source_retries=5))
    assert stager.items(event) == [1, 2]
    assert event.failure is not None
    assert event.failure.message == "item 3 is bad"


async def test_a_cursor_that_is_not_json_is_refused() -> None:
    class OddCursor(PagedNumbers):
        async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
            yield Page([1], cursor={"token": "hunter2", "after": (1, 2)})

    event = await walk_to_end(make_walk(OddCursor(), MemoryStager(), START))
    assert event.failure is not None
    assert "cursor is of type dict holding tuple, which is not JSON" in event.failure.message
    assert "hunter2" not in event.failure.message + event.failure.traceback


async def test_a_batch_that_could_not_be_written_is_written_again(caplog: pytest.LogCaptureFixture) -> None:
    source, stager = PagedNumbers(), MemoryStager(breaks={0: 1, 1: 2, 2: 2})
    event = await walk_to_end(make_walk(source, stager, START, source_retries=2))
    assert stager.items(event) == source.everything
    assert source.opened_at == [0], "nothing is asked for again"
    assert stager.written_at == pytest.approx([1, 4, 7], abs=0.01), "each batch has retries of its own"
    assert event.ended
    assert caplog.text.count("it is written again in") == 5
    assert "the XCom backend raised ConnectionError('batch 1 broke') as batch 1 was written" in caplog.text


async def test_hiccups_of_the_backend_are_outlived_as_those_of_the_source() -> None:
    source, stager = PagedNumbers(), MemoryStager(breaks={1: 4})
    event = await walk_to_end(make_walk(source, stager, START, retry=SourceRetry(attempts=5)))
    assert event.ended
    assert stager.items(event) == source.everything
    assert stager.written_at == pytest.approx([0, 15, 15], abs=0.01)


@pytest.mark.parametrize("source_retries", [0, 1, 3])
async def test_a_backend_that_stays_broken_ends_the_walk_after_what_it_took(
    source_retries: int,
) -> None:
    source, stager = PagedNumbers(pages=100), MemoryStager(breaks={2: 99})
    walk = make_walk(source, stager, START, source_retries=source_retries)
    event = await walk_to_end(walk)
    assert stager.items(event) == source.everything[:10]
    assert stager.breaks[2] == 99 - 1 - source_retries
    assert not event.ended
    assert event.failure is not None
    said = "batch 2 cannot be written: the XCom backend raised ConnectionError('batch 2 broke')"
    assert event.failure.message == said
    assert "in write" in event.failure.traceback
    assert (source.closed, stager.closed) == (1, True)

    stager.breaks.clear()
    again = await walk_to_end(make_walk(source, stager, after(START, event)))
    assert stager.items(again) == source.everything[10:], "nothing is lost, and nothing repeated"


async def test_a_walk_closed_while_it_waits_to_write_again_ends_at_once() -> None:
    source, stager = PagedNumbers(), MemoryStager(breaks={1: 99})
    walk = make_walk(source, stager, START, source_retries=9)
    walk.start()
    await asyncio.sleep(20)
    first = await walk.batches()
    await walk.close()
    assert now() == pytest.approx(20, abs=0.01)
    assert (source.closed, stager.closed) == (1, True)
    assert not walk.goes_on_from(START), "the next trigger opens a new one"

    stager.breaks.clear()
    rest = await walk_to_end(make_walk(source, stager, after(START, first)))
    assert stager.items(first) + stager.items(rest) == source.everything


async def test_what_is_staged_can_be_committed_while_another_batch_is_written_again() -> None:
    source, stager = PagedNumbers(), MemoryStager(breaks={1: 2})
    walk = make_walk(source, stager, START, source_retries=2)
    walk.start()
    first = await walk.batches()
    assert now() < 1
    assert walk.goes_on_from(after(START, first))
    rest = await walk.all_batches()
    assert rest.first == 1
    assert stager.items(first) + stager.items(rest) == source.everything
    await walk.close()


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.5, 2.5, 3.2, 4.0])
async def test_a_walk_closed_at_any_moment_closes_its_source(moment: float) -> None:
    source, stager = PagedNumbers(delay=1), MemoryStager(write_time=0.3)
    walk = make_walk(source, stager, START)
    walk.start()
    await asyncio.sleep(moment)
    await walk.close()
    assert source.closed == len(source.opened_at)


async def test_a_walk_whose_writes_swallow_its_cancellation_ends_with_them() -> None:
    class Swallowing(MemoryStager):
        async def write(self, number: int, writer: str, batch: list[str]) -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3)
            await super().write(number, writer, batch)

    source, stager = PagedNumbers(pages=10**9), Swallowing()
    walk = make_walk(source, stager, START, walk_ahead=5)
    walk.start()
    await asyncio.sleep(1)
    await walk.close()
    assert len(stager.batches) == 1
    assert source.closed == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_only_a_checkpoint_that_fits_is_gone_on_from() -> None:
    walk = make_walk(PagedNumbers(), MemoryStager(), START)
    walk.start()
    await walk.all_batches()
    assert not walk.goes_on_from(Checkpoint("another stream"))
    assert not walk.goes_on_from(Checkpoint("s", batches=1, items=4)), "other batches than its own"
    assert not walk.goes_on_from(Checkpoint("s", batches=1, items=4, writer=walk.writer)), "nor other items"
    assert not walk.goes_on_from(Checkpoint("s", batches=9, items=99))
    assert not walk.goes_on_from(Checkpoint("s", batches=1, items=5, writer="another")), "nor another's"
    assert walk.goes_on_from(Checkpoint("s", batches=1, items=5, writer=walk.writer))
    assert not walk.goes_on_from(START), "what was before is forgotten"
    await walk.close()


@pytest.mark.parametrize("takes_cursor", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 12, 50])
async def test_a_crash_after_any_batch_loses_and_repeats_nothing(batch_size: int, takes_cursor: bool) -> None:
    committed: list[int] = []
    checkpoint, ended = START, False
    while not ended:
        source, stager = PagedNumbers(takes_cursor=takes_cursor), MemoryStager()
        walk = make_walk(source, stager, checkpoint, batch_size=batch_size, walk_ahead=1)
        walk.start()
        event = await walk.batches()  # and then this walk is gone
        await walk.close()
        committed += stager.items(event)
        checkpoint, ended = after(checkpoint, event), event.ended
    assert committed == source.everything


async def test_a_cancelled_reader_leaves_the_walk_as_it_was() -> None:
    source, stager = PagedNumbers(delay=1), MemoryStager()
    walk = make_walk(source, stager, START)
    walk.start()
    reader = asyncio.create_task(walk.batches())
    await asyncio.sleep(0.5)
    reader.cancel()
    with suppress(asyncio.CancelledError):
        await reader
    assert stager.items(await walk.all_batches()) == source.everything
    await walk.close()


async def test_a_policy_of_single_items_costs_no_batch_of_its_own_for_the_end() -> None:
    source = PagedNumbers(pages=1, size=3)
    event = await walk_to_end(make_walk(source, MemoryStager(), START, batch_size=3))
    assert event.counts == (3,)
    assert event.ended


@pytest.mark.parametrize("waits_for", ["source", "pace", "walk_ahead", "retry"])
async def test_what_its_guard_raises_ends_it_whatever_it_waits_for(waits_for: str) -> None:
    source = PagedNumbers(pages=100, delay=1000 if waits_for == "source" else 0.1)
    policy: dict[str, Any] = {"batch_size": 3}
    pace = None
    if waits_for == "pace":
        pace = Pace(3, None, nothing_has_finished)
    elif waits_for == "walk_ahead":
        policy["walk_ahead"] = 3
    elif waits_for == "retry":
        source.breaks[1] = 9
        policy |= {"source_retries": 9, "retry": SourceRetry(wait=1000, longest_wait=1000)}

    async def guard() -> None:
        await asyncio.sleep(20)
        raise TooManyItemsFailed("item 3 failed")

    stager = MemoryStager()
    walk = Walk(source.open, stager, walk_policy(source, **policy), START, pace, guard)
    event = await walk_to_end(walk)
    assert now() == pytest.approx(20, abs=0.1)
    assert event.failure is not None
    assert (event.failure.message, event.failure.outcome) == ("item 3 failed", "fail")
    assert stager.items(event) == source.everything[: sum(event.counts)]
    assert source.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def nothing_has_finished() -> int:
    return 0


async def test_it_tells_how_it_is_doing() -> None:
    walk = make_walk(
        PagedNumbers(pages=3, size=2, delay=10, breaks={1: 1}),
        MemoryStager(),
        Checkpoint("s"),
        source_retries=1,
    )
    walk.start()
    await asyncio.sleep(5)
    assert (walk.state.given, walk.state.waits_for, walk.state.reopened) == (0, "items", 0)
    await asyncio.sleep(15.5)
    state = walk.state
    assert (state.given, state.waits_for, state.reopened) == (2, "retry", 1)
    assert state.error is not None
    assert "raised" in state.error
    await asyncio.sleep(20)
    assert (walk.state.waits_for, walk.state.reopened) == ("items", 1)
    await walk.close()


@pytest.mark.parametrize(
    ("options", "waits_for"), [({"walk_ahead": 2}, "commits"), ({}, None)], ids=["far ahead", "at its end"]
)
async def test_it_tells_what_keeps_it(options: dict[str, Any], waits_for: str | None) -> None:
    walk = make_walk(PagedNumbers(pages=9, size=2, delay=1), MemoryStager(), Checkpoint("s"), **options)
    walk.start()
    await asyncio.sleep(60)
    assert walk.state.waits_for == waits_for
    await walk.close()
