"""The walk: one source driven to its end, its items staged batch by batch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar
from uuid import uuid4

from deferred_expand.exceptions import DeferredExpandError, ResultsAwaited, SourceFailed, SourceTimedOut
from deferred_expand.streams.events import BatchEvent, Checkpoint, Failure
from deferred_expand.walking.clock import PageTimedOut, SourceClock
from deferred_expand.walking.pulling import Puller
from deferred_expand.walking.retry import Reopenings
from deferred_expand.walking.staging import write_batch
from deferred_expand.walking.tasks import end, wait_patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deferred_expand.streams.page import Position
    from deferred_expand.walking.pace import Pace
    from deferred_expand.walking.policy import WalkPolicy
    from deferred_expand.walking.pulling import OpenSource
    from deferred_expand.walking.staging import Encoded, Stager

log = logging.getLogger(__name__)

T = TypeVar("T")
Guard: TypeAlias = "Callable[[], Coroutine[Any, Any, None]]"


_STILL_THERE = (
    ". It has not ended when it was cancelled either: what stands still in a thread cannot be ended, and is "
    "left there until it returns"
)


class WalkClosed(Exception):
    """The walk was closed while someone waited for its batches."""


@dataclass(frozen=True)
class _Staged:
    count: int
    size: int
    position: Position
    waited: float
    at: int


class Walk:
    """
    Drives a source from a checkpoint, and stages its items for a committer.

    One task pulls (it costs an append and a comparison per item), one stages. The source is asked
    for more while batches are staged and committed, until ``walk_ahead`` items wait. A third starts
    and ends these two, and awaits nothing else. So what comes out of a source is told from what is
    meant for the walk: only the end of a loop, which cancels all its tasks, cancels this one.

    :param guard: what it raises ends the walk, whatever the source does. It never returns.
    :param waited: seconds that this try of the stream head has waited for the source before.
    """

    def __init__(
        self,
        open_source: OpenSource,
        stager: Stager,
        policy: WalkPolicy,
        start: Checkpoint,
        pace: Pace | None = None,
        guard: Guard | None = None,
        waited: float = 0.0,
    ) -> None:
        self.stream = start.stream
        self.writer = uuid4().hex[:12]
        self.clock = SourceClock(policy.limits, waited)
        # Out here cursors are sealed, in the source they are not.
        position = replace(start.position, cursor=stager.unseal(start.position.cursor))
        self._source = Puller(open_source, policy, replace(start, position=position), pace, self.clock)
        self._stager = stager
        self._policy = policy
        self._pace = pace
        self._guard = guard
        self._guarding: asyncio.Task[None] | None = None
        self._first = start.batches
        self._committed = start
        self._staged: deque[_Staged] = deque()
        self._dry = False  # the source gives no more
        self._over = False
        self._closed = False
        self._hurried = False
        self._suspended = False  # in dag.test(): what is given must run before it goes on
        self._failure: Failure | None = None
        self._changed = asyncio.Event()  # there may be something to commit, or room to stage
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None  # while it runs
        self._parts: set[asyncio.Task[Any]] = set()  # that it starts and ends

    # -- for the one who commits ------------------------------------------------------------------

    def start(self) -> None:
        """Start it; one that is closed stays so."""
        if not self._closed:
            self._closing = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(), name=f"walk {self.stream}")
            self._task.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._changed.set()
        if not task.cancelled():
            task.exception()  # for whoever waits for batches

    async def close(self) -> None:
        """
        Stop where it is, and close the source. What is staged stays unseen.

        Final from the first line, even when the wait is cancelled. Several may close one walk.
        """
        self._closed = True
        if self._closing is not None and self._task is not None and not self._task.done():
            if not self._closing.done():
                self._closing.set_result(None)
            await asyncio.wait({self._task})

    async def discard(self) -> None:
        """Once it is closed: delete what it has staged and nobody will commit."""
        first = self._committed.batches
        staged = range(first, first + len(self._staged) + 1)  # the last one may not have been answered
        try:
            await self._stager.discard(self.writer, self._first, staged)
        except Exception:
            log.warning("cannot delete what a walk of stream %s has staged", self.stream, exc_info=True)

    @property
    def items(self) -> int:
        """Committed and staged."""
        return self._source.taken

    @property
    def given(self) -> int:
        """What the source has given so far, in any walk: also what is not staged yet."""
        return self._source.given

    @property
    def given_again(self) -> int:
        """The same, without what a source that was opened again has yet to repeat."""
        return self.given - self._source.buffer.still_to_pass_over

    def hurry(self) -> None:
        """Stage what there is, without waiting for a full batch."""
        self._hurried = True
        self._source.pulled.set()

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

    def begin_try(self) -> None:
        """Another try of the stream head goes on with this walk: count its wait for the source."""
        self.clock.begin_try()
        self._staged = deque(replace(staged, waited=0.0) for staged in self._staged)

    async def batches(self) -> BatchEvent:
        """
        Wait until something is staged, or the source is over; all that is staged by then.

        :raises WalkClosed: it was closed meanwhile.
        """
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
            waited=self._staged[-1].waited if self._staged else 0.0,
            at=self._staged[-1].at if self._staged else None,
        )

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            if self._task is None or self._task.done():
                self._raise_why_stopped()
            self._changed.clear()
            await self._changed.wait()

    @property
    def _broken(self) -> bool:
        """The walk itself stopped (not its source): it could not stage, or was closed."""
        return not self._over and (self._closed or self._task is None or self._task.done())

    def _raise_why_stopped(self) -> NoReturn:
        if self._task is not None and not self._task.cancelled():
            self._task.result()  # raises what it could not stage for
        raise WalkClosed(f"the walk of stream {self.stream} is not running")

    # -- starting and ending ----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            self._over = await self._pull_and_stage()
        except ResultsAwaited:
            self._over = self._suspended = True
        except DeferredExpandError as error:
            self._failure = Failure.of(error)
            self._over = True
        except asyncio.CancelledError:
            self._source.give_up()
            await wait_patiently(*self._parts)  # cancelled as well; twice would break off their closing
            raise
        finally:
            self._closed = True
            self._source.give_up()
            try:
                await end(*self._parts)
            finally:
                self._stager.close()

    async def _pull_and_stage(self) -> bool:
        """:return: whether it came to the end of the source; otherwise it is being closed."""
        staging = self._begin(self._stage_all(), f"staging of {self._policy.name}")
        if self._guard is not None:
            self._guarding = self._begin(self._guard(), f"guard of {self._policy.name}")
        failure = await self._pull(staging)
        self.clock.stop()
        self._dry = True
        self._source.pulled.set()
        await self._until_one_ends(staging)
        if self._closed:
            return False
        if staging.cancelled():
            raise RuntimeError("staging was cancelled by what it awaits")
        staging.result()
        if failure is not None:
            raise failure
        return True

    async def _pull(self, staging: asyncio.Task[None]) -> DeferredExpandError | None:
        """Open the source until it is at its end or staging has failed; returns why it cannot go on."""
        reopenings = Reopenings(self._policy.source_retries, self._policy.retry)
        while not staging.done() and not self._closed:
            pulling = self._begin(self._source.pull(), self._policy.name)
            late = await self._until_pulled(pulling, staging)
            if staging.done() or self._closed:
                break
            error = late or pulling.result()
            if error is None or self.given >= self._policy.max_items:
                break
            if isinstance(error, DeferredExpandError):
                return error  # opening it again would change nothing
            delay = reopenings.delay(error, self._source.buffer.end)
            what = f"the source raised {error!r}" if late is None else str(late)
            if delay is None:
                failure = SourceFailed(f"{what}{reopenings.asks_too_much(error)}")
                failure.__cause__ = error
                return failure
            log.warning("%s; it is opened again from its last cursor in %g s", what, delay, exc_info=error)
            del pulling, error, late  # and the source's frames
            await self._until_one_ends(staging, timeout=min(delay, self.clock.left))
            used_up = self.clock.used_up()
            if used_up is not None:
                return used_up
        return None

    async def _until_pulled(
        self, pulling: asyncio.Task[Any], staging: asyncio.Task[None]
    ) -> PageTimedOut | SourceTimedOut | None:
        """:return: why the source is given up, which is closed then."""
        while True:
            await self._until_one_ends(pulling, staging, timeout=self.clock.due_in())
            if pulling.done() or staging.done() or self._closed:
                return None
            late = self.clock.late()
            if late is not None:
                self._source.give_up()
                await end(pulling)
                return late if pulling.done() else type(late)(f"{late}{_STILL_THERE}")

    def _begin(self, part: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(part, name=name)
        self._parts.add(task)
        task.add_done_callback(self._parts.discard)
        return task

    async def _until_one_ends(self, *parts: asyncio.Task[Any], timeout: float | None = None) -> None:
        """Or the walk is closed, or the time is over; raises what the guard raises."""
        ends = {part for part in (*parts, self._closing, self._guarding) if part is not None}
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._guarding is not None and self._guarding.done() and not self._closed:
            self._guarding.result()

    # -- staging ----------------------------------------------------------------------------------

    async def _stage_all(self) -> None:
        if await self._batch_is_due():
            await self._weigh_first_item()
        while await self._batch_is_due():
            await self._stage()
            await self._until_walk_ahead()

    async def _batch_is_due(self) -> bool:
        """Wait for a batch that is full, old enough or the last; ``False``: there is none left."""
        loop, source = asyncio.get_running_loop(), self._source
        wanted = self.items < self._policy.max_items
        while not self._dry and not self._closed:
            due_in = self._due_in(loop.time()) if wanted else None
            if due_in is not None and due_in <= 0:
                break
            source.pulled.clear()
            timer = None if due_in is None else loop.call_later(due_in, source.pulled.set)
            try:
                await source.pulled.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        self._hurried = False
        return wanted and not self._closed and len(source.buffer) > 0

    def _due_in(self, now: float) -> float | None:
        """Seconds until what has been pulled is a batch; ``None`` when that is nothing."""
        oldest = self._source.buffer.oldest
        if oldest is None:
            return None
        if self._hurried or len(self._source.buffer) >= self._source.full:
            return 0.0
        return oldest + self._policy.batch_interval - now

    async def _weigh_first_item(self) -> None:
        first = await self._stager.encode(self._source.buffer.peek(1), self.items + 1)
        self._weigh(first, self._policy.batch_size)

    def _weigh(self, encoded: Encoded, full: int) -> None:
        """Adapt how many items make a batch to the size they turned out to have."""
        items = sum(map(len, encoded.batches))
        if items:
            mean = max(1, sum(encoded.sizes) // items)
            full = max(1, min(self._policy.batch_size, self._policy.max_batch_bytes // mean))
        self._source.set_full(full)

    async def _stage(self) -> None:
        source, count = self._source, self._source.full
        if self._pace is not None:
            count = await self._pace.room(self.items, min(count, len(source.buffer)))
        items = source.buffer.peek(int(min(count, self._policy.max_items - self.items)))
        encoded = await self._stager.encode(items, self.items + 1)
        for batch, size in zip(encoded.batches, encoded.sizes, strict=True):
            number = self._committed.batches + len(self._staged)
            await write_batch(self._stager, self._policy, number, self.writer, batch)
            waited = 0.0 if self._policy.limits.execution_timeout is None else self.clock.waited
            end = source.take(len(batch))
            position = replace(end, cursor=await self._stager.seal(end.cursor))
            self._staged.append(_Staged(len(batch), size, position, waited, int(time.time())))
            self._changed.set()
        self._weigh(encoded, source.full)
        if encoded.error is not None:
            raise encoded.error

    async def _until_walk_ahead(self) -> None:
        while not self._closed and (
            sum(staged.count for staged in self._staged) >= self._policy.walk_ahead
            or sum(staged.size for staged in self._staged) >= self._policy.walk_ahead_bytes
        ):
            self._changed.clear()
            await self._changed.wait()
