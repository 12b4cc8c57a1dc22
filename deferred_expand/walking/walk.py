"""The walk: one source driven to its end, its items staged batch by batch."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deferred_expand.exceptions import (
    CursorStuck,
    DeferredExpandError,
    ResultsAwaited,
    SourceFailed,
    SourceShrank,
)
from deferred_expand.streams.buffer import PageBuffer
from deferred_expand.streams.cursors import CursorWatch
from deferred_expand.streams.events import BatchEvent, Checkpoint, Failure
from deferred_expand.streams.page import JSON, Page, Position, check_cursor
from deferred_expand.walking.retry import Reopenings
from deferred_expand.walking.staging import write_batch
from deferred_expand.walking.tasks import end

if TYPE_CHECKING:
    from deferred_expand.walking.pace import Pace
    from deferred_expand.walking.policy import WalkPolicy
    from deferred_expand.walking.staging import Encoded, Stager

log = logging.getLogger(__name__)

OpenSource = Callable[[JSON], AsyncGenerator[Any, None]]
"""Opens the source after a cursor (``None``: from the start)."""


@dataclass(frozen=True)
class _Staged:
    count: int
    size: int
    position: Position


class Walk:
    """
    Drives a source from a checkpoint, and stages its items for a committer.

    One task pulls (it costs an append and a comparison per item), one stages. The source is asked
    for more while batches are staged and committed, until ``walk_ahead`` items wait.
    """

    def __init__(
        self,
        open_source: OpenSource,
        stager: Stager,
        policy: WalkPolicy,
        start: Checkpoint,
        pace: Pace | None = None,
    ) -> None:
        self.stream = start.stream
        self.writer = uuid4().hex[:12]
        self._open_source = open_source
        self._stager = stager
        self._policy = policy
        self._pace = pace
        self._buffer = PageBuffer(start.position, resumable=policy.resumable)
        self._cursors = CursorWatch(start.position.cursor, start.items)
        self._committed = start
        self._staged: deque[_Staged] = deque()
        self._items = start.items  # committed and staged
        self._full = 1  # items that make a batch: few as long as their size is not known
        self._over = False
        self._closed = False
        self._hurried = False
        self._suspended = False  # in dag.test(): what is given must run before it goes on
        self._failure: Failure | None = None
        self._pulled = asyncio.Event()  # there may be something to stage
        self._room = asyncio.Event()  # the buffer can take more
        self._changed = asyncio.Event()  # there may be something to commit, or room to stage
        self._task: asyncio.Task[None] | None = None

    # -- for the one who commits ------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"walk {self.stream}")
        self._task.add_done_callback(lambda _: self._changed.set())

    async def close(self) -> None:
        """Stop where it is, and close the source. What is staged stays unseen."""
        if self._task is not None:
            await end(self._task)

    @property
    def items(self) -> int:
        """Committed and staged."""
        return self._items

    @property
    def given(self) -> int:
        """What the source has given so far, in any walk: also what is not staged yet."""
        return self._items + len(self._buffer)

    @property
    def given_again(self) -> int:
        """The same, without what a source that was opened again has yet to repeat."""
        return self.given - self._buffer.still_to_pass_over

    def hurry(self) -> None:
        """Stage what there is, without waiting for a full batch."""
        self._hurried = True
        self._pulled.set()

    @property
    def failed(self) -> bool:
        """The source could not go on."""
        return self._failure is not None

    def goes_on_from(self, checkpoint: Checkpoint) -> bool:
        """Whether what this walk holds follows the checkpoint; if so, forget what is before it."""
        if self._broken or checkpoint.stream != self.stream:
            return False
        done = checkpoint.batches - self._committed.batches
        if not 0 <= done <= len(self._staged) or (done and checkpoint.writer != self.writer):
            return False
        if sum(self._staged[n].count for n in range(done)) + self._committed.items != checkpoint.items:
            return False
        for _ in range(done):
            self._staged.popleft()
        self._committed = checkpoint
        self._changed.set()
        return True

    async def batches(self) -> BatchEvent:
        """Wait until something is staged, or the source is over; all that is staged by then."""
        await self._until(lambda: bool(self._staged) or self._over)
        return self._event()

    async def all_batches(self) -> BatchEvent:
        """Wait for the end of the source."""
        await self._until(lambda: self._over)
        return self._event()

    def _event(self) -> BatchEvent:
        return BatchEvent(
            stream=self.stream,
            writer=self.writer,
            first=self._committed.batches,
            counts=tuple(staged.count for staged in self._staged),
            position=self._staged[-1].position if self._staged else self._committed.position,
            ended=self._over and self._failure is None and not self._suspended,
            failure=self._failure if self._over else None,
        )

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            if self._task is None or self._task.done():
                await self._raise_why_stopped()
            self._changed.clear()
            await self._changed.wait()

    @property
    def _broken(self) -> bool:
        """The walk itself stopped (not its source): it could not stage, or was closed."""
        return not self._over and (self._task is None or self._task.done())

    async def _raise_why_stopped(self) -> None:
        if self._task is not None:
            await self._task
        raise RuntimeError(f"the walk of stream {self.stream} is not running")

    # -- pulling ----------------------------------------------------------------------------------

    async def _pull(self) -> None:
        reopenings = Reopenings(self._policy.source_retries, self._policy.retry)
        while True:
            try:
                return await self._pull_once(self._buffer.reopen())
            except DeferredExpandError:
                raise  # opening it again would change nothing
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and self._closed:
                    raise  # otherwise it comes from what the source awaits
                delay = reopenings.delay(error, self._buffer.end)
                if delay is None:
                    raise SourceFailed(f"the source raised {error!r}") from error
                log.warning(
                    "the source raised %r; it is opened again from its last cursor in %g s",
                    error, delay, exc_info=True,
                )  # fmt: skip
                await asyncio.sleep(delay)

    async def _pull_once(self, position: Position) -> None:
        buffer, now = self._buffer, asyncio.get_running_loop().time
        if self._pace is not None:
            await self._pace.until_wanted(self.given)
        async with aclosing(self._open_source(position.cursor)) as pages:
            async for page in pages:
                if self._closed:
                    return  # it has ignored that it was cancelled
                was_empty = not buffer
                if isinstance(page, Page):
                    self._check_cursor(page)
                    buffer.add_page(page, now())
                else:
                    buffer.add_item(page, now())
                if was_empty or len(buffer) >= self._full:  # start the batch's clock, or stage it
                    self._pulled.set()
                if self.given >= self._policy.max_items:
                    return
                if self._pace is not None:
                    await self._pace.until_wanted(self.given)
                while len(buffer) >= 2 * self._full:  # one batch is being staged, the next is complete
                    self._room.clear()
                    await self._room.wait()
        if buffer.still_to_pass_over:
            raise SourceShrank(
                f"opened again after cursor {position.cursor!r}, the source ended "
                f"{buffer.still_to_pass_over} item(s) before the place reached earlier: "
                "a source must give the same items in the same order again, or take a cursor"
            )

    def _check_cursor(self, page: Page) -> None:
        check_cursor(page.cursor)
        if not self._policy.resumable:
            return
        between = self._cursors.items_since(page.cursor, self.given + len(page.items))
        if between:
            raise CursorStuck(
                f"{self._policy.name} gave the cursor {page.cursor!r} a second time, with {between} item(s) "
                f"in between, after item {self.given}: it would give these again when it goes on. A page's "
                "cursor must ask for what follows the page"
            )

    # -- staging ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        pulling = asyncio.create_task(self._pull(), name=self._policy.name)
        pulling.add_done_callback(lambda _: self._pulled.set())
        try:
            if await self._batch_is_due(pulling):
                await self._weigh_first_item()
            while await self._batch_is_due(pulling):
                await self._stage()
                await self._until_walk_ahead()
            await pulling
            self._over = True
        except ResultsAwaited:
            self._over = self._suspended = True
        except DeferredExpandError as error:
            self._failure = Failure.of(error)
            self._over = True
        finally:
            self._closed = True
            self._stager.close()
            await end(pulling)

    async def _batch_is_due(self, pulling: asyncio.Task[None]) -> bool:
        """Wait for a batch that is full, old enough or the last; ``False``: there is none left."""
        loop = asyncio.get_running_loop()
        if self._items >= self._policy.max_items:
            return False
        while len(self._buffer) < self._full and not pulling.done():
            oldest = self._buffer.oldest
            age_left = None if oldest is None else oldest + self._policy.batch_interval - loop.time()
            if age_left is not None and (age_left <= 0 or self._hurried):
                break
            self._pulled.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._pulled.wait(), age_left)
        self._hurried = False
        return len(self._buffer) > 0

    async def _weigh_first_item(self) -> None:
        first = await self._stager.encode(self._buffer.peek(1), self._items + 1)
        self._full = self._policy.batch_size
        self._weigh(first)
        self._room.set()

    def _weigh(self, encoded: Encoded) -> None:
        """Adapt how many items make a batch to the size they turned out to have."""
        items = sum(map(len, encoded.batches))
        if items:
            mean = max(1, sum(encoded.sizes) // items)
            self._full = max(1, min(self._policy.batch_size, self._policy.max_batch_bytes // mean))

    async def _stage(self) -> None:
        count = self._full
        if self._pace is not None:
            count = await self._pace.room(self._items, min(count, len(self._buffer)))
        items = self._buffer.peek(int(min(count, self._policy.max_items - self._items)))
        encoded = await self._stager.encode(items, self._items + 1)
        for batch, size in zip(encoded.batches, encoded.sizes, strict=True):
            number = self._committed.batches + len(self._staged)
            await write_batch(self._stager, self._policy, number, self.writer, batch)
            self._staged.append(_Staged(len(batch), size, self._buffer.drop(len(batch))))
            self._items += len(batch)
            self._changed.set()
        self._weigh(encoded)
        self._room.set()
        if encoded.error is not None:
            raise encoded.error

    async def _until_walk_ahead(self) -> None:
        while (
            sum(staged.count for staged in self._staged) >= self._policy.walk_ahead
            or sum(staged.size for staged in self._staged) >= self._policy.walk_ahead_bytes
        ):
            self._changed.clear()
            await self._changed.wait()
