"""Other streams of the same run as a source: followed as they are committed, one or several in one."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any, Protocol

from deferred_expand.committing.codec import decode_or_skipped
from deferred_expand.committing.status import FIRST_LOOK, StreamStatus
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import SourceGaveUp, SourceSkipped
from deferred_expand.streams.page import Page, SkippedItem
from deferred_expand.streams.ref import StreamRef
from deferred_expand.walking.pauses import pauses
from deferred_expand.walking.tasks import end
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence


async def follow(
    parents: Sequence[dict[str, Any]] = (),
    how: str = "concat",
    strict: bool = False,
    fill: bool = False,
    fillvalue: Any = None,
    cursor: list[int] | None = None,
) -> AsyncGenerator[Page, None]:
    """
    Items of the parents' streams as soon as they are committed.

    :param parents: JSON of :class:`StreamRef`.
    :param how: ``"zip"`` or ``"concat"`` (of one: that one).
    :param cursor: how many items of each parent have been taken.
    """
    thread = Threads("follow")
    taken = list(cursor or [0] * len(parents))
    followed = [CommittedStream(StreamRef(**ref), thread) for ref in parents]
    try:
        opened = (
            zip_streams(followed, taken, strict, fill, fillvalue)
            if how == "zip"
            else concat_streams(followed, taken)
        )
        async with aclosing(opened) as pages:
            async for page in pages:
                yield page
    finally:
        thread.close()


class Followed(Protocol):
    """A stream that is followed."""

    name: str

    def batches(self, taken: int) -> AsyncGenerator[list[Any], None]:
        """The items after those, batch by batch, until the stream has ended."""


class CommittedStream:
    """One of this run. Its walk may begin anew, and must give the same items then."""

    def __init__(self, ref: StreamRef, thread: Threads) -> None:
        self.name = ref.task_id
        self._store = StreamStore(ref)
        self._thread = thread

    async def batches(self, taken: int) -> AsyncGenerator[list[Any], None]:
        """
        Implements :class:`Followed`.

        :raises SourceGaveUp: it failed for good.
        :raises SourceSkipped: it was skipped before its first item.
        """
        waits = pauses(FIRST_LOOK)
        while True:
            status = await self._thread.run(StreamStatus.read, self._store)
            log = status.log
            if log is not None and log.items > taken:
                waits = pauses(FIRST_LOOK)
                while log.items > taken:
                    batch = await self._thread.run(self._store.read_batch, log, taken + 1)
                    texts = batch.since(taken + 1)
                    taken = batch.end - 1
                    yield [decode_or_skipped(text) for text in texts]
            elif status.is_over:
                self._check_outcome(status, taken)
                return
            else:
                await asyncio.sleep(next(waits))

    def _check_outcome(self, status: StreamStatus, taken: int) -> None:
        if status.log is not None and (status.log.ended or status.walker == "success"):
            return  # in the second case a person has marked it so
        if status.walker == "skipped" and not taken:
            raise SourceSkipped(f"the stream of task {self.name!r} was skipped")
        raise SourceGaveUp(
            f"the stream of task {self.name!r} has ended as {status.walker} after {taken} item(s)"
        )


async def concat_streams(parents: Sequence[Followed], taken: list[int]) -> AsyncGenerator[Page, None]:
    """:param taken: items of each that were taken before; counted on."""
    for number, parent in enumerate(parents):
        async with aclosing(parent.batches(taken[number])) as batches:
            async for items in batches:
                taken[number] += len(items)
                yield Page(items, cursor=list(taken))


async def zip_streams(
    parents: Sequence[Followed], taken: list[int], strict: bool, fill: bool, fillvalue: Any
) -> AsyncGenerator[Page, None]:
    """:param taken: items of each that were taken before; counted on."""
    async with AsyncExitStack() as stack:
        queues = [
            _Queue(await stack.enter_async_context(aclosing(parent.batches(taken[number]))))
            for number, parent in enumerate(parents)
        ]
        while True:
            await _fill(queues)
            rest = [queue for queue in queues if queue.items]
            if len(rest) < len(queues) and strict and rest:
                raise SourceGaveUp(
                    "zip(strict=True): the streams have not the same length, "
                    + _lengths(parents, taken, queues)
                )
            if not rest or (len(rest) < len(queues) and not fill):
                return
            count = min(len(queue.items) for queue in rest)
            items = [_row(queues, fillvalue) for _ in range(count)]
            for number, queue in enumerate(queues):
                taken[number] += count if queue in rest else 0
            yield Page(items, cursor=list(taken))


class _Queue:
    """Items of one stream that wait for those of the others."""

    def __init__(self, batches: AsyncGenerator[list[Any], None]) -> None:
        self.items: deque[Any] = deque()
        self._batches = batches

    async def fill(self) -> None:
        """Wait for at least one item, or the end."""
        while not self.items:
            batch = await anext(self._batches, None)
            if batch is None:
                return
            self.items.extend(batch)


async def _fill(queues: Sequence[_Queue]) -> None:
    tasks = [asyncio.create_task(queue.fill()) for queue in queues if not queue.items]
    try:
        if tasks:
            await asyncio.gather(*tasks)
    finally:
        await end(*tasks)  # one that fails leaves the others waiting


def _row(queues: list[_Queue], fillvalue: Any) -> Any:
    row = tuple(queue.items.popleft() if queue.items else fillvalue for queue in queues)
    return next((item for item in row if isinstance(item, SkippedItem)), row)


def _lengths(parents: Sequence[Followed], taken: list[int], queues: list[_Queue]) -> str:
    return ", ".join(
        f"{parent.name!r} has {'more than ' if queue.items else ''}{number}"
        for parent, number, queue in zip(parents, taken, queues, strict=True)
    )
