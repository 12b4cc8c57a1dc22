"""A store in memory, and sources that count what they are asked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.exceptions import ItemNotSerializable
from deferred_expand.streams.events import Checkpoint
from deferred_expand.streams.page import Page
from deferred_expand.walking.clock import TimeLimits
from deferred_expand.walking.policy import WalkPolicy
from deferred_expand.walking.staging import Encoded
from deferred_expand.walking.walk import Walk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from deferred_expand.streams.events import BatchEvent
    from deferred_expand.walking.pace import Pace


# Finer than the loop's own clock: at the default of a microsecond a timer that is due within less than half
# of one is neither due nor ever gets nearer.
virtual_time = pytest.mark.looptime(start=0, resolution=1e-9)


class Bad:
    """An item that cannot be written down."""


@dataclass
class MemoryStager:
    """
    Keeps batches in a dictionary; items are written down with ``repr``.

    :param breaks: how often it raises before it keeps the batch with that number.
    """

    write_time: float = 0.0
    max_items: int = 1_000_000
    breaks: dict[int, int] = field(default_factory=dict)
    batches: dict[str, list[str]] = field(default_factory=dict)
    written_at: list[float] = field(default_factory=list)
    closed: bool = False
    discarded: list[tuple[int, range]] = field(default_factory=list)

    async def seal(self, cursor: Any) -> Any:
        return None if cursor is None else json.dumps(cursor)

    def unseal(self, sealed: Any) -> Any:
        return None if sealed is None else json.loads(sealed)

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        batches: list[list[str]] = []
        for number, item in enumerate(items, first_number):
            if isinstance(item, Bad):
                return Encoded(batches, sizes(batches), ItemNotSerializable(f"item {number} is bad"))
            if not batches or len(batches[-1]) == self.max_items:
                batches.append([])
            batches[-1].append(repr(item))
        return Encoded(batches, sizes(batches))

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        await asyncio.sleep(self.write_time)
        if self.breaks.get(number, 0):
            self.breaks[number] -= 1
            raise ConnectionError(f"batch {number} broke")
        self.batches[f"{number}.{writer}"] = batch
        self.written_at.append(asyncio.get_running_loop().time())

    def close(self) -> None:
        self.closed = True

    async def discard(self, writer: str, first: int, staged: range) -> None:
        assert self.closed
        self.discarded.append((first, staged))

    def items(self, event: BatchEvent) -> list[Any]:
        """What the event's batches hold."""
        return [
            eval(text)
            for number in range(event.first, event.first + len(event.counts))
            for text in self.batches[f"{number}.{event.writer}"]
        ]


def sizes(batches: list[list[str]]) -> list[int]:
    return [sum(map(len, batch)) for batch in batches]


@dataclass
class PagedNumbers:
    """
    Pages of numbers, entered at any page.

    :param breaks: how often it raises before it gives the page with that number.
    """

    pages: int = 4
    size: int = 3
    delay: float = 0.0
    takes_cursor: bool = True
    breaks: dict[int, int] = field(default_factory=dict)
    opened_at: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    closed: int = 0
    closes_in: float = 0.0

    @property
    def everything(self) -> list[int]:
        return list(range(self.pages * self.size))

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        first = cursor or 0
        self.opened_at.append(first)
        try:
            for number in range(first, self.pages):
                await asyncio.sleep(self.delay)
                if self.breaks.get(number, 0):
                    self.breaks[number] -= 1
                    raise LookupError(f"page {number} broke")
                self.given.append(number)
                items = list(range(number * self.size, (number + 1) * self.size))
                yield Page(items, cursor=number + 1 if self.takes_cursor else None)
        finally:
            await asyncio.sleep(self.closes_in)
            self.closed += 1


def make_walk(
    source: PagedNumbers, stager: MemoryStager, start: Checkpoint, pace: Pace | None = None, **policy: Any
) -> Walk:
    return Walk(source.open, stager, walk_policy(source, **policy), start, pace)


def walk_policy(source: PagedNumbers, **policy: Any) -> WalkPolicy:
    limits = ("name", "page_timeout", "execution_timeout")
    given: dict[str, Any] = {
        "batch_size": 5,
        "batch_interval": 5.0,
        "source_retries": 0,
        "walk_ahead": float("inf"),
        "walk_ahead_bytes": float("inf"),
        "max_batch_bytes": 1_000_000,
        "resumable": source.takes_cursor,
        "limits": TimeLimits(**{"name": "the source", **{n: policy.pop(n) for n in limits if n in policy}}),
        **policy,
    }
    return WalkPolicy(**given)


@dataclass
class Committer:
    """
    Commits what a walk stages, as an expander does.

    :param takes: seconds for each commit.
    :ivar commits: when, in the loop's time, and the items of each batch.
    """

    walk: Walk
    takes: float = 0.0
    commits: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)

    async def run(self, checkpoint: Checkpoint) -> BatchEvent:
        while True:
            event = await self.walk.batches()
            await asyncio.sleep(self.takes)
            if event.counts:
                self.commits.append((asyncio.get_running_loop().time(), event.counts))
            checkpoint = after(checkpoint, event)
            assert self.walk.goes_on_from(checkpoint)
            if event.ended or event.failure is not None:
                return event


def after(checkpoint: Checkpoint, event: BatchEvent) -> Checkpoint:
    """Once the event is committed."""
    return Checkpoint(
        checkpoint.stream,
        checkpoint.batches + len(event.counts),
        checkpoint.items + sum(event.counts),
        event.position,
        event.writer if event.counts else checkpoint.writer,
    )
