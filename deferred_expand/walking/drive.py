"""Source and staging, driven side by side to the end of the source."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from deferred_expand.exceptions import DeferredExpandError, SourceFailed, SourceTimedOut
from deferred_expand.walking.batching import A_MOMENT, Batcher
from deferred_expand.walking.retry import Reopenings
from deferred_expand.walking.tasks import end, wait_patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deferred_expand.walking.clock import PageTimedOut, SourceClock
    from deferred_expand.walking.policy import WalkPolicy
    from deferred_expand.walking.pulling import Puller
    from deferred_expand.walking.telling import WalkTeller

log = logging.getLogger(__name__)

T = TypeVar("T")
Guard: TypeAlias = "Callable[[], Coroutine[Any, Any, None]]"

_STILL_THERE = (
    ". It has not ended when it was cancelled either: what stands still in a thread cannot be ended, and is "
    "left there until it returns"
)


class Drive:
    """
    One task pulls, one stages; whoever calls :meth:`run` starts and ends these two, and awaits nothing else.
    So what comes out of a source is told from what is meant for the walk: only the end of a loop, which
    cancels all its tasks, cancels that one.

    :param guard: what it raises ends the drive, whatever the source does. It never returns.
    """

    def __init__(
        self,
        source: Puller,
        batcher: Batcher,
        policy: WalkPolicy,
        clock: SourceClock,
        teller: WalkTeller,
        guard: Guard | None,
    ) -> None:
        self.closed = False
        self._source, self._batcher, self._policy = source, batcher, policy
        self._clock, self._teller, self._guard = clock, teller, guard
        self._guarding: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None  # while it runs
        self._ends_at = math.inf  # in the loop's time
        self._parts: set[asyncio.Task[Any]] = set()  # that it starts and ends

    def start(self) -> None:
        """Right before it runs."""
        self._closing = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """Final; whoever runs it comes to the end soon."""
        self.closed = True
        self._batcher.stop()
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    async def run(self) -> bool:
        """
        :return: whether it came to the end of the source; otherwise it is being closed.
        :raises DeferredExpandError: why the source cannot go on.
        """
        staging = self._begin(self._batcher.stage_all(), f"staging of {self._policy.name}")
        if self._guard is not None:
            self._guarding = self._begin(self._guard(), f"guard of {self._policy.name}")
        failure = await self._pull(staging)
        self._clock.stop()
        self._batcher.end(failed=failure is not None)
        await self._until_one_ends(staging)
        if self.closed:
            return False
        if staging.cancelled():
            raise RuntimeError("staging was cancelled by what it awaits")
        staging.result()
        if failure is not None:
            raise failure
        return True

    async def wait_patiently(self) -> None:
        """Until the parts have ended, which are cancelled as well; twice would break off their closing."""
        self._source.give_up()
        await wait_patiently(*self._parts)

    async def end(self) -> None:
        self.closed = True
        self._source.give_up()
        await end(*self._parts)

    async def _pull(self, staging: asyncio.Task[None]) -> DeferredExpandError | None:
        """Open the source until it is at its end or staging has failed; returns why it cannot go on."""
        reopenings = Reopenings(self._policy.source_retries, self._policy.retry)
        self._set_time()
        while not (staging.done() or self.closed or self._time_is_over):
            pulling = self._begin(self._source.pull(), self._policy.name)
            late = await self._until_pulled(pulling, staging)
            if staging.done() or self.closed or self._time_is_over:
                break
            error = late or pulling.result()
            if error is None or self._source.given >= self._policy.max_items:
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
            self._teller.note_error(what)
            del pulling, error, late  # and the source's frames
            await self._until_one_ends(staging, timeout=min(delay, self._clock.left, self._time_left))
            self._teller.note_going_on()
            used_up = self._clock.used_up()
            if used_up is not None:
                return used_up
        return None

    async def _until_pulled(
        self, pulling: asyncio.Task[Any], staging: asyncio.Task[None]
    ) -> PageTimedOut | SourceTimedOut | None:
        """:return: why the source is given up, which is closed then."""
        while True:
            due = [due for due in (self._clock.due_in(), self._time_left) if due not in (None, math.inf)]
            await self._until_one_ends(pulling, staging, timeout=min(due, default=None))
            if pulling.done() or staging.done() or self.closed:
                return None
            if self._time_is_over:
                self._source.give_up()
                await end(pulling)
                return None
            late = self._clock.late()
            if late is not None:
                self._source.give_up()
                await end(pulling)
                return late if pulling.done() else type(late)(f"{late}{_STILL_THERE}")

    def _set_time(self) -> None:
        if self._policy.ends_at is not None:
            self._ends_at = asyncio.get_running_loop().time() + self._policy.ends_at - time.time()

    @property
    def _time_left(self) -> float:
        """Seconds of the stream's."""
        left = self._ends_at - asyncio.get_running_loop().time()
        return left if left > A_MOMENT else 0.0

    @property
    def _time_is_over(self) -> bool:
        return not self._time_left

    def _begin(self, part: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(part, name=name)
        self._parts.add(task)
        task.add_done_callback(self._parts.discard)
        return task

    async def _until_one_ends(self, *parts: asyncio.Task[Any], timeout: float | None = None) -> None:
        """Or the walk is closed, or the time is over; raises what the guard raises."""
        ends = {part for part in (*parts, self._closing, self._guarding) if part is not None}
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._guarding is not None and self._guarding.done() and not self.closed:
            self._guarding.result()
