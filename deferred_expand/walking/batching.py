"""From the buffer to batches that are staged, and wait for their commit."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from deferred_expand.walking.staging import write_batch
from deferred_expand.walking.windowing import Windowing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.streams.events import Checkpoint
    from deferred_expand.streams.page import Position
    from deferred_expand.walking.clock import SourceClock
    from deferred_expand.walking.pace import Pace
    from deferred_expand.walking.policy import WalkPolicy
    from deferred_expand.walking.pulling import Puller
    from deferred_expand.walking.staging import Encoded, Stager

TOGETHER = 0.05  # seconds within which what a source gives stays together
A_MOMENT = 0.001  # seconds for which no timer is set
AS_THEY_COME = -math.inf


@dataclass(frozen=True)
class Staged:
    """
    A batch that is written, and not known to be committed.

    :param count: of what the stream counts: its items, the batch, or the window that it closes.
    :param items: in it.
    :param size: in bytes, as it is stored.
    :param position: in the source, right after its last item; the cursor is sealed.
    :param waited: seconds that this try of the stream head had waited for the source.
    :param at: when it was staged, in seconds since the epoch.
    """

    count: int
    items: int
    size: int
    position: Position
    waited: float
    at: int


class Batcher:
    """
    Cuts what has been pulled into batches, and stages them.

    A batch is due when it is full. Before that, what a source gives at once stays together, and then
    it depends on who commits. An expander takes a batch as soon as ``batch_interval`` has passed since
    the last one, and none of the stream waits for its commit: so batches are small while that is
    cheap, and grow by themselves where commits take long. A worker takes all that there is at one
    time.

    Where the stream is cut into windows, a batch ends with its window at the latest. One that is full
    closes with the batch that fills it; one whose time is over, or at the end of the source, with a
    batch of no items.

    :ivar waits_for: what keeps it from staging more.
    :ivar takes_at: when a worker will, in the loop's time (``math.inf``: nobody knows yet);
        :data:`AS_THEY_COME` for an expander.
    """

    def __init__(
        self,
        source: Puller,
        stager: Stager,
        policy: WalkPolicy,
        start: Checkpoint,
        writer: str,
        clock: SourceClock,
        changed: asyncio.Event,
        pace: Pace,
    ) -> None:
        self.staged: deque[Staged] = deque()
        self.committed = start
        self.takes_at = AS_THEY_COME
        self._dry = False  # the source gives no more
        self._ended = False  # and has come to its end
        self._source = source
        self._stager = stager
        self._policy = policy
        self._writer = writer
        self._clock = clock
        self._changed = changed  # there may be something to commit, or room to stage
        self._pace = pace
        self._stopped = False
        self._hurried = False
        self.waits_for: Literal["items", "commits", "pace"] | None = None
        self._last = -math.inf  # when a batch was last due, in the loop's time
        self._windowing = Windowing(policy.unit, start.position.window)

    def stop(self) -> None:
        """Stage nothing more."""
        self._stopped = True

    def end(self, *, failed: bool) -> None:
        """The source gives no more."""
        self._dry, self._ended = True, not failed
        self.look()

    def look(self) -> None:
        """There may be a batch that is due."""
        self._source.pulled.set()

    def hurry(self) -> None:
        """Stage what there is, whatever is not due yet."""
        self._hurried = True
        self.look()

    @property
    def has_all(self) -> bool:
        """Whether everything is staged that can be by now."""
        if self.waits_for != "items":
            return self.waits_for is not None
        due_in = self._due_in()
        return due_in is None or due_in > A_MOMENT

    def goes_on_from(self, checkpoint: Checkpoint) -> bool:
        """Whether what is staged follows the checkpoint; if so, forget what is before it."""
        done = checkpoint.batches - self.committed.batches
        if not 0 <= done <= len(self.staged) or (done and checkpoint.writer != self._writer):
            return False
        if sum(self.staged[n].count for n in range(done)) + self.committed.items != checkpoint.items:
            return False
        for _ in range(done):
            self.staged.popleft()
        self.committed = checkpoint
        self._changed.set()
        self.look()
        return True

    def begin_try(self) -> None:
        """What is staged was not waited for in this try of the stream head."""
        self.staged = deque(replace(staged, waited=0.0) for staged in self.staged)

    async def stage_all(self) -> None:
        """Until the source is dry, or nothing more shall be."""
        self._windowing.begin()
        if await self._batch_is_due() and self._source.buffer:
            await self._weigh_first_item()
        while await self._batch_is_due():
            if self._window_is_over:
                await self._close_window()
            else:
                await self._stage()
            await self._until_walk_ahead()

    # -- when ---------------------------------------------------------------------------------------

    async def _batch_is_due(self) -> bool:
        """Wait for a batch that is due; ``False``: there will be none."""
        loop, source = asyncio.get_running_loop(), self._source
        while not self._stopped:
            with self._waiting("pace") if self._pace.paused else nullcontext():
                await self._pace.while_paused()
            wanted = source.taken < self._policy.max_items
            if self._dry and not (wanted and source.buffer):
                return self._window_is_over
            due_in = self._due_in() if wanted else None
            if due_in is not None and due_in <= A_MOMENT:
                if self._hurried:
                    self._windowing.close()
                    self._hurried = False
                return True
            source.pulled.clear()
            timer = None if due_in is None else loop.call_later(due_in, source.pulled.set)
            try:
                with self._waiting("items"):
                    await source.pulled.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        return False

    def _due_in(self) -> float | None:
        """Seconds until there is something to stage; ``None``: nobody knows."""
        due = [due for due in (self._items_due_in(), self._window_due_in()) if due is not None]
        return min(due, default=None)

    def _items_due_in(self) -> float | None:
        """Seconds until what has been pulled is a batch."""
        source, oldest = self._source, self._source.buffer.oldest
        if oldest is None:
            return None
        pulled, may = len(source.buffer), self._may_stage
        if self._hurried or may >= self._windowing.left(source.full) or (self._dry and may == pulled):
            return 0.0
        if self.takes_at != AS_THEY_COME:
            due = max(oldest + TOGETHER, self.takes_at)
        elif self.staged:
            return None
        else:
            due = max(oldest + TOGETHER, self._last + self._policy.batch_interval)
        return None if due == math.inf else due - asyncio.get_running_loop().time()

    @property
    def _may_stage(self) -> int:
        """Items, of what has been pulled."""
        source, oldest = self._source, self._source.buffer.oldest
        if oldest is None:
            return len(source.buffer)
        return min(len(source.buffer), self._pace.allows(source.taken, oldest))

    def _window_due_in(self) -> float | None:
        """Seconds until the window closes that has items, if it does before it is full."""
        is_last = self._ended and not self._source.buffer
        return self._windowing.due_in(at_once=self._hurried or is_last)

    @property
    def _window_is_over(self) -> bool:
        """It closes now, with what is staged of it."""
        due_in = self._window_due_in()
        return due_in is not None and due_in <= A_MOMENT and not self._may_stage

    @contextmanager
    def _waiting(self, what: Literal["items", "commits", "pace"]) -> Iterator[None]:
        self.waits_for = what
        self._changed.set()
        try:
            yield
        finally:
            self.waits_for = None

    @property
    def _is_far_ahead(self) -> bool:
        return (
            sum(staged.items for staged in self.staged) >= self._policy.walk_ahead
            or sum(staged.size for staged in self.staged) >= self._policy.walk_ahead_bytes
        )

    async def _until_walk_ahead(self) -> None:
        while not self._stopped and self._is_far_ahead:
            self._source.pulled.clear()
            with self._waiting("commits"):
                await self._source.pulled.wait()

    # -- what ---------------------------------------------------------------------------------------

    async def _weigh_first_item(self) -> None:
        first = await self._stager.encode(self._source.buffer.peek(1), self._source.taken + 1)
        self._weigh(first, self._policy.batch_size)

    def _weigh(self, encoded: Encoded, full: int) -> None:
        """Adapt how many items make a batch to the size they turned out to have."""
        items = sum(map(len, encoded.batches))
        if items:
            mean = max(1, sum(encoded.sizes) // items)
            full = max(1, min(self._policy.batch_size, self._policy.max_batch_bytes // mean))
        self._source.set_full(full)

    async def _stage(self) -> None:
        source, items = self._source, self._source.taken
        self._last = asyncio.get_running_loop().time()
        count = int(min(self._windowing.left(source.full), self._policy.max_items - items))
        if source.buffer.oldest is not None:
            with self._waiting("pace"):
                count = await self._pace.room(items, min(count, len(source.buffer)), source.buffer.oldest)
        encoded = await self._stager.encode(source.buffer.peek(count), items + 1)
        for batch, size in zip(encoded.batches, encoded.sizes, strict=True):
            await self._stage_batch(batch, size)
        self._weigh(encoded, source.full)
        if encoded.error is not None:
            raise encoded.error

    async def _close_window(self) -> None:
        self._source.count_as_taken(self._windowing.missing)
        await self._stage_batch([], 0, closes=True)

    async def _stage_batch(self, batch: list[str], size: int, *, closes: bool = False) -> None:
        """:param closes: the window, though it is not full."""
        number = self.committed.batches + len(self.staged)
        await write_batch(self._stager, self._policy, number, self._writer, batch)
        waited = 0.0 if self._policy.limits.execution_timeout is None else self._clock.waited
        end = self._source.take(len(batch))
        before = self.staged[-1].position if self.staged else self.committed.position
        count = self._windowing.count(len(batch), before, closes=closes)
        position = replace(end, cursor=await self._stager.seal(end.cursor), window=self._windowing.open)
        self.staged.append(Staged(count, len(batch), size, position, waited, int(time.time())))
        self._changed.set()
