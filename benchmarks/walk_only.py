"""A walk without Airflow beside a bare ``async for``: loop time per item, memory, many streams at once."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import psutil

from deferred_expand.committing.stager import XComStager
from deferred_expand.sources.function import walk_function
from deferred_expand.sources.sealing import seal
from deferred_expand.streams.events import BatchEvent, Checkpoint
from deferred_expand.streams.page import Page
from deferred_expand.walking.policy import WalkPolicy
from deferred_expand.walking.staging import Encoded
from deferred_expand.walking.threads import Threads
from deferred_expand.walking.walk import Walk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence

BATCH_SIZE = 100
ITEMS = 1_000_000
STREAMS = 300

threads = Threads("benchmark")


class ForgetfulStager:
    """Takes batches and forgets them: what is left is the walk itself, and the sealing of cursors."""

    unseal = XComStager.unseal

    async def seal(self, cursor: Any) -> Any:
        return seal(cursor)

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        return Encoded([[""] * len(items)], [len(items)])

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        pass

    async def discard(self, writer: str, first: int, staged: range) -> None:
        pass


async def single_items(count: int) -> AsyncGenerator[Any, None]:
    for number in range(count):
        yield number


def from_a_generator(count: int) -> AsyncGenerator[Any, None]:
    """Single items of a sync generator, which runs in a thread."""
    return walk_function(numbers, {"count": count}, None, threads)


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


async def pages_of_100(count: int) -> AsyncGenerator[Any, None]:
    for number in range(0, count, 100):
        yield Page(list(range(number, number + 100)), cursor=number)


def make_walk(source: Callable[[], AsyncGenerator[Any, None]], walk_ahead: float = float("inf")) -> Walk:
    policy = WalkPolicy(
        batch_size=BATCH_SIZE,
        batch_interval=5.0,
        source_retries=0,
        resumable=True,
        walk_ahead=walk_ahead,
        walk_ahead_bytes=float("inf"),
        max_batch_bytes=1_000_000,
    )
    return Walk(lambda cursor: source(), ForgetfulStager(), policy, Checkpoint("benchmark"))


async def drain(walk: Walk) -> int:
    """Commit as a committer does: each event's batches, then go on from there."""
    checkpoint = Checkpoint("benchmark")
    walk.start()
    while True:
        event: BatchEvent = await walk.batches()
        checkpoint = Checkpoint(
            "benchmark",
            checkpoint.batches + len(event.counts),
            checkpoint.items + sum(event.counts),
            event.position,
            event.writer,
        )
        if not walk.goes_on_from(checkpoint):
            raise RuntimeError("the walk does not go on from its own commit")
        if event.ended:
            await walk.close()
            return checkpoint.items


async def bare(source: AsyncGenerator[Any, None]) -> int:
    count = 0
    async for item in source:
        count += len(item.items) if isinstance(item, Page) else 1
    return count


def processor_seconds(run: Callable[[], Coroutine[Any, Any, int]], expected: int) -> float:
    gc.collect()
    started = time.process_time()
    if asyncio.run(run()) != expected:
        raise RuntimeError("items were lost")
    return time.process_time() - started


def cost_per_item(rounds: int) -> list[dict[str, Any]]:
    """Microseconds per item over a bare ``async for``, best of the rounds, interleaved."""
    results = []
    sources = (
        ("single items", single_items, single_items),
        ("single items of a sync generator", single_items, from_a_generator),
        ("pages of 100", pages_of_100, pages_of_100),
    )
    for name, bare_source, source in sources:
        walked, bared = [], []
        for _ in range(rounds):
            bared.append(processor_seconds(lambda: bare(bare_source(ITEMS)), ITEMS))  # noqa: B023
            walked.append(
                processor_seconds(lambda: drain(make_walk(lambda: source(ITEMS), 1000)), ITEMS)  # noqa: B023
            )
        results.append(
            {
                "source": name,
                "bare_us": min(bared) / ITEMS * 1e6,
                "walk_us": min(walked) / ITEMS * 1e6,
                "over_bare_us": (min(walked) - min(bared)) / ITEMS * 1e6,
                "items_per_second": ITEMS / min(walked),
            }
        )
    return results


def memory_of_a_million() -> dict[str, float]:
    """MB that a million items through one walk add: resident set, and Python's own peak."""
    process = psutil.Process()
    asyncio.run(drain(make_walk(lambda: single_items(1000), 1000)))  # what any walk costs once
    gc.collect()
    before = process.memory_info().rss
    tracemalloc.start()
    asyncio.run(drain(make_walk(lambda: single_items(ITEMS // 10), 1000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    asyncio.run(drain(make_walk(lambda: single_items(ITEMS), 1000)))
    return {"rss_mb": (process.memory_info().rss - before) / 1e6, "python_peak_mb": peak / 1e6}


def lag_of_many_streams(seconds: float = 15.0) -> dict[str, float]:
    """Milliseconds that the event loop is late, with 300 open streams of a page of 5 each second."""

    async def slow_pages() -> AsyncGenerator[Any, None]:
        number = 0
        while True:
            await asyncio.sleep(1)
            number += 1
            yield Page([number] * 5, cursor=number)

    async def run() -> list[float]:
        tasks = [asyncio.create_task(drain(make_walk(slow_pages))) for _ in range(STREAMS)]
        late = []
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while loop.time() < ends:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            late.append((loop.time() - due) * 1000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(late)

    late = asyncio.run(run())
    return {"p50_ms": late[len(late) // 2], "p99_ms": late[int(len(late) * 0.99)], "max_ms": late[-1]}
