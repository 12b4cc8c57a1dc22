"""What an iterator gives from a thread: at once, many at a time, and no more than is wanted."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.shaping.pipeline import shape
from deferred_expand.shaping.steps import Step
from deferred_expand.sources.function import walk_function
from deferred_expand.walking.threads import ROUND_ITEMS, Threads, WantsToExit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

pytestmark = pytest.mark.asyncio

variable: ContextVar[int] = ContextVar("variable", default=0)


class CountingThreads(Threads):
    calls = 0

    async def run(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return await super().run(call, *args, **kwargs)


@pytest.fixture
def threads() -> Iterator[CountingThreads]:
    threads = CountingThreads("test")
    yield threads
    threads.close()


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


async def all_of(threads: Threads, iterator: Iterator[Any]) -> list[Any]:
    return [item async for items in threads.iterate(iterator) for item in items]


async def test_many_items_of_a_source_and_its_steps_cost_few_calls(threads: CountingThreads) -> None:
    opened = shape(walk_function(numbers, {"count": 10_000}, None, threads), (Step.of("map", str),), threads)
    async with aclosing(opened) as pages:
        assert [item async for page in pages for item in page.items] == list(map(str, range(10_000)))
    assert threads.calls < 1000


async def test_an_item_that_flat_map_gives_does_not_wait_for_the_next(threads: Threads) -> None:
    seen = threading.Event()

    def two(item: Any) -> Iterator[str]:
        yield "first"
        assert seen.wait(10), "the second is made although nobody has seen the first"
        yield "second"

    async def source() -> AsyncGenerator[Any, None]:
        yield 1

    given: list[Any] = []
    async for item in shape(source(), (Step.of("flat_map", two),), threads):
        given.extend(item.items)
        seen.set()
    assert given == ["first", "second"]


async def test_an_item_is_there_before_the_next_one_is_made(threads: Threads) -> None:
    taken = [threading.Event() for _ in range(20)]

    def one_by_one() -> Iterator[int]:
        for number, event in enumerate(taken):
            yield number
            assert event.wait(30), "the next item is made although nobody has seen this one"

    seen: list[int] = []
    async for items in threads.iterate(one_by_one()):
        seen += items
        for number in items:
            taken[number].set()
    assert seen == list(range(20))


async def test_while_nobody_takes_it_a_source_gives_no_more_than_some(threads: Threads) -> None:
    given = 0

    def endless() -> Iterator[int]:
        nonlocal given
        while True:
            given += 1
            yield given

    async with aclosing(threads.iterate(endless())) as opened:
        seen = await anext(opened)
        await asyncio.sleep(0.2)
        assert len(seen) <= given <= ROUND_ITEMS


async def test_where_nothing_may_be_read_ahead_only_what_is_asked_for_is_made() -> None:
    threads, given = Threads("test", reads_ahead=False), 0

    def endless() -> Iterator[int]:
        nonlocal given
        while True:
            given += 1
            yield given

    async with aclosing(threads.iterate(endless())) as opened:
        for number in (1, 2, 3):
            assert await anext(opened) == [number]
            await asyncio.sleep(0.05)
            assert given == number
    threads.close()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyError("no page"), KeyError),
        (SystemExit(3), WantsToExit),
        (asyncio.CancelledError("by what it awaits"), asyncio.CancelledError),
    ],
)
async def test_what_came_before_an_error_is_given(
    threads: Threads, error: BaseException, raised: type[BaseException]
) -> None:
    def breaks() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    seen: list[int] = []

    async def take() -> None:
        async for items in threads.iterate(breaks()):
            seen.extend(items)

    with pytest.raises(raised):
        await take()
    assert seen == [1, 2]


async def test_it_keeps_its_context_and_its_thread_to_the_end(threads: Threads) -> None:
    where: set[int] = set()

    def counts() -> Iterator[int]:
        try:
            for _ in range(1000):
                where.add(threading.get_ident())
                variable.set(variable.get() + 1)
                yield variable.get()
        finally:
            where.add(threading.get_ident())
            closed.append(variable.get())

    closed: list[int] = []
    variable.set(5)
    assert await all_of(threads, counts()) == list(range(6, 1006))
    assert closed == [1005]
    assert len(where) == 1
    assert where != {threading.get_ident()}


@pytest.mark.parametrize("count", [1, 2])
async def test_one_that_is_left_while_it_blocks_is_closed_when_it_comes_back(count: int) -> None:
    threads = Threads("test", count)
    blocks, release, closed = threading.Event(), threading.Event(), threading.Event()

    def blocking() -> Iterator[int]:
        try:
            yield 1
            blocks.set()
            release.wait(30)
            yield 2
        finally:
            closed.set()

    taking = asyncio.create_task(all_of(threads, blocking()))
    await asyncio.to_thread(blocks.wait, 30)
    taking.cancel()
    await asyncio.wait({taking}, timeout=0.2)
    assert not closed.is_set()
    release.set()
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(taking, 30)
    assert closed.is_set()
    threads.close()


async def test_what_blocks_may_not_end_the_process(threads: Threads) -> None:
    with pytest.raises(WantsToExit, match=r"sys\.exit\('by'\)"):
        await threads.run(sys.exit, "by")
