"""Laws of shaped and combined streams, against plain Python lists, with a crash at every item."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deferred_expand.exceptions import SourceGaveUp
from deferred_expand.shaping.follow import concat_streams, zip_streams
from deferred_expand.shaping.pipeline import shape, shape_batch
from deferred_expand.shaping.steps import Step
from deferred_expand.streams.buffer import PageBuffer
from deferred_expand.streams.page import JSON, Page, Position
from deferred_expand.walking.threads import Threads

Open = Callable[[JSON], AsyncGenerator[Any, None]]


def is_even(number: int) -> bool:
    return number % 2 == 0


async def is_small(number: int) -> bool:
    return number < 20


def add_one(number: int) -> int:
    return number + 1


async def double(number: int) -> int:
    return 2 * number


def countdown(number: int) -> range:
    return range(number % 4)


async def both(number: int) -> AsyncGenerator[int, None]:
    yield number
    yield -number


async def same(number: int) -> list[int]:
    return [number] * (number % 3)


# Each step, and the same for a list.
STEPS: list[tuple[Step, Callable[[list[int]], list[int]]]] = [
    (Step.of("filter", is_even), lambda items: [n for n in items if n % 2 == 0]),
    (Step.of("filter", is_small), lambda items: [n for n in items if n < 20]),
    (Step.of("map", add_one), lambda items: [n + 1 for n in items]),
    (Step.of("map", double), lambda items: [2 * n for n in items]),
    (Step.of("flat_map", countdown), lambda items: [m for n in items for m in range(n % 4)]),
    (Step.of("flat_map", both), lambda items: [m for n in items for m in (n, -n)]),
    (Step.of("flat_map", same), lambda items: [m for n in items for m in [n] * (n % 3)]),
]
pipelines = st.lists(st.sampled_from(STEPS), max_size=4)
# A source is a list of pages of numbers; with a cursor, which is how many pages are done, or without.
pages = st.lists(st.lists(st.integers(0, 30), max_size=5), max_size=5)
kinds = st.sampled_from(["pages with cursors", "pages", "items"])


def source(content: list[list[int]], kind: str) -> Open:
    async def open_source(cursor: Any) -> AsyncGenerator[Any, None]:
        for done, items in enumerate(content[cursor or 0 :], (cursor or 0) + 1):
            if kind == "items":
                for item in items:
                    yield item
            else:
                yield Page(items, cursor=done if "cursors" in kind else None)

    return open_source


async def take_all(open_source: Open, position: Position, *, resumable: bool) -> PageBuffer:
    buffer = PageBuffer(position, resumable=resumable)
    async with aclosing(open_source(position.cursor)) as opened:
        async for page in opened:
            if isinstance(page, Page):
                buffer.add_page(page, 0)
            else:
                buffer.add_item(page, 0)
    assert not buffer.still_to_pass_over
    return buffer


def survives_a_crash_at_every_item(open_source: Open, expected: list[Any], *, resumable: bool) -> None:
    async def check() -> None:
        whole = await take_all(open_source, Position(), resumable=resumable)
        assert whole.peek(10_000) == expected
        for taken in range(1, len(expected) + 1):
            position = Position.from_json(json.loads(json.dumps(whole.drop(1).to_json())))
            rest = await take_all(open_source, position, resumable=resumable)
            assert rest.peek(10_000) == expected[taken:]

    asyncio.run(check())


@settings(deadline=None, max_examples=60)  # threads take their time on a busy machine
@given(pages, kinds, pipelines)
def test_a_shaped_stream_is_the_shaped_list_wherever_it_goes_on(
    content: list[list[int]], kind: str, pipeline: list[Any]
) -> None:
    steps = tuple(step for step, _ in pipeline)
    expected = list(itertools.chain(*content))
    for _, on_list in pipeline:
        expected = on_list(expected)
    thread = Threads("test")
    try:
        opened = source(content, kind)
        survives_a_crash_at_every_item(
            lambda cursor: shape(opened(cursor), steps, thread), expected, resumable="cursors" in kind
        )
    finally:
        thread.close()
    assert shape_batch(itertools.chain(*content), steps) == expected


class Committed:
    """A stream whose items came in some batches."""

    def __init__(self, name: str, batches: list[list[int]]) -> None:
        self.name = name
        self.items = list(itertools.chain(*batches))
        self._sizes = [len(batch) for batch in batches if batch]

    async def batches(self, taken: int) -> AsyncGenerator[list[Any], None]:
        start = 0
        for size in self._sizes:
            if batch := self.items[max(start, taken) : start + size]:
                await asyncio.sleep(0)
                yield batch
            start += size


parents = st.lists(pages, min_size=1, max_size=3)


def committed(contents: list[list[list[int]]]) -> list[Committed]:
    return [Committed(str(number), content) for number, content in enumerate(contents)]


@given(parents)
def test_concatenated_streams_are_concatenated_lists(contents: list[list[list[int]]]) -> None:
    streams = committed(contents)
    survives_a_crash_at_every_item(
        lambda cursor: concat_streams(streams, list(cursor or [0] * len(streams))),  # type: ignore[arg-type]
        [item for stream in streams for item in stream.items],
        resumable=True,
    )


@given(parents, st.booleans())
def test_zipped_streams_are_zipped_lists(contents: list[list[list[int]]], fill: bool) -> None:
    streams = committed(contents)
    lists = [stream.items for stream in streams]
    survives_a_crash_at_every_item(
        lambda cursor: zip_streams(streams, list(cursor or [0] * len(streams)), False, fill, "?"),  # type: ignore[arg-type]
        list(itertools.zip_longest(*lists, fillvalue="?")) if fill else list(zip(*lists, strict=False)),
        resumable=True,
    )


@given(pages, pages)
def test_zip_is_strict_when_asked(one: list[list[int]], other: list[list[int]]) -> None:
    streams = committed([one, other])

    async def take() -> list[Any]:
        opened = zip_streams(streams, [0, 0], True, False, None)
        return [item async for page in opened for item in page.items]

    lists = [stream.items for stream in streams]
    if len(lists[0]) == len(lists[1]):
        assert asyncio.run(take()) == list(zip(*lists, strict=True))
    else:
        shorter = min(len(items) for items in lists)
        with pytest.raises(SourceGaveUp, match=f"not the same length.*has {shorter}|has more than {shorter}"):
            asyncio.run(take())
