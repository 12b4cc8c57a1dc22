"""The walk: one source driven to its end, its items staged batch by batch."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn
from uuid import uuid4

from deferred_expand.exceptions import DeferredExpandError, ResultsAwaited
from deferred_expand.streams.events import BatchEvent, Checkpoint, Failure
from deferred_expand.walking.batching import AS_THEY_COME, Batcher
from deferred_expand.walking.clock import SourceClock
from deferred_expand.walking.drive import Drive
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.pulling import Puller
from deferred_expand.walking.telling import WalkTeller

if TYPE_CHECKING:
    from collections.abc import Callable

    from deferred_expand.streams.control import Control
    from deferred_expand.streams.events import WalkState
    from deferred_expand.walking.drive import Guard
    from deferred_expand.walking.policy import WalkPolicy
    from deferred_expand.walking.pulling import OpenSource
    from deferred_expand.walking.staging import Stager

log = logging.getLogger(__name__)


class WalkClosed(Exception):
    """The walk was closed while someone waited for its batches."""


class Walk:
    """
    Drives a source from a checkpoint, and stages its items for a committer.

    Pulling costs an append and a comparison per item. The source is asked for more while batches are
    staged and committed, until ``walk_ahead`` items wait.

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
        self.control: Control | None = None
        """What it obeys; ``None``: nobody has said anything."""
        self.writer = uuid4().hex[:12]
        self.clock = SourceClock(policy.limits, waited)
        # Out here cursors are sealed, in the source they are not.
        position = replace(start.position, cursor=stager.unseal(start.position.cursor))
        self._pace = pace or Pace()
        self._source = Puller(open_source, policy, replace(start, position=position), self._pace, self.clock)
        self._stager = stager
        self._policy = policy
        self._first = start.batches
        self._over = False
        self._suspended = False  # in dag.test(): what is given must run before it goes on
        self._failure: Failure | None = None
        self._changed = asyncio.Event()  # there may be something to commit
        self._batcher = Batcher(
            self._source, stager, policy, start, self.writer, self.clock, self._changed, self._pace
        )
        self._task: asyncio.Task[None] | None = None
        self._teller = WalkTeller(self._source, self._batcher, self._pace, self.clock)
        self._drive = Drive(self._source, self._batcher, policy, self.clock, self._teller, guard)

    # -- for the one who commits ------------------------------------------------------------------

    def start(self) -> None:
        """Start it; one that is closed stays so."""
        if not self._drive.closed:
            self._drive.start()
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
        self._drive.close()
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def discard(self) -> None:
        """Once it is closed: delete what it has staged and nobody will commit."""
        first = self._batcher.committed.batches
        staged = range(
            first, first + len(self._batcher.staged) + 1
        )  # the last one may not have been answered
        try:
            await self._stager.discard(self.writer, self._first, staged)
        except Exception:
            log.warning("cannot delete what a walk of stream %s has staged", self.stream, exc_info=True)

    @property
    def items(self) -> int:
        """Committed and staged, as the stream counts them: items, batches or windows."""
        committed, staged = self._batcher.committed, self._batcher.staged
        return committed.items + sum(batch.count for batch in staged)

    @property
    def given(self) -> int:
        """What the source has given so far, in any walk: also what is not staged yet."""
        return self._source.given

    @property
    def given_again(self) -> int:
        """
        How many of what the stream counts the source has given so far, without those that a source that
        was opened again has yet to repeat. What it has begun is counted: :meth:`hurry` ends it.
        """
        return -(-(self.given - self._source.buffer.still_to_pass_over) // self._policy.unit.size)

    @property
    def state(self) -> WalkState:
        """For people."""
        return self._teller.state

    def obey(self, control: Control) -> None:
        """What a person wants from now on."""
        if control == self.control:
            return
        self.control, size = control, self._policy.unit.size  # windows count as full ones
        pending = None if control.max_pending is None else control.max_pending * size
        self._pace.change(paused=control.paused, max_pending=pending, rate_limit=control.rate_limit)
        self._batcher.look()

    def hurry(self) -> None:
        """Stage what there is, without waiting for more."""
        self._batcher.hurry()

    @property
    def failed(self) -> bool:
        """The source could not go on."""
        return self._failure is not None

    def goes_on_from(self, checkpoint: Checkpoint) -> bool:
        """Whether what this walk holds follows the checkpoint; if so, forget what is before it."""
        if self._broken or checkpoint.stream != self.stream:
            return False
        return self._batcher.goes_on_from(checkpoint)

    def begin_try(self) -> None:
        """Another try of the stream head goes on with this walk: count its wait for the source."""
        self.clock.begin_try()
        self._batcher.begin_try()

    async def batches(self) -> BatchEvent:
        """
        Wait until something is staged, or the source is over; all that is staged by then.

        For an expander, which takes batches as they come.

        :raises WalkClosed: it was closed meanwhile.
        """
        self._take_at(AS_THEY_COME)
        await self._until(lambda: bool(self._batcher.staged) or self._over)
        return self._event()

    async def batches_until(self, moment: float) -> BatchEvent:
        """
        The same, but all that the source gives until a time is one batch, if it does not fill one before.

        For a worker, which costs much. Where there is nothing then, the first that comes.

        :param moment: in the loop's time.
        """
        self._take_at(moment)
        try:
            await self._until(lambda: bool(self._batcher.staged) or self._over)
            await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
            await self._until(lambda: self._batcher.has_all or self._over)
            return self._event()
        finally:
            if self._batcher.takes_at == moment:  # nobody else has asked meanwhile
                self._take_at(math.inf)

    async def all_batches(self) -> BatchEvent:
        """Wait for the end of the source."""
        self._take_at(math.inf)
        await self._until(lambda: self._over)
        return self._event()

    def _take_at(self, moment: float) -> None:
        if self._batcher.takes_at != moment:
            self._batcher.takes_at = moment
            self._batcher.look()

    def _event(self) -> BatchEvent:
        committed, staged = self._batcher.committed, self._batcher.staged
        return BatchEvent(
            stream=self.stream,
            writer=self.writer,
            first=committed.batches,
            counts=tuple(batch.count for batch in staged),
            position=staged[-1].position if staged else committed.position,
            ended=self._over and self._failure is None and not self._suspended,
            failure=self._failure if self._over else None,
            waited=staged[-1].waited if staged else 0.0,
            at=staged[-1].at if staged else None,
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
        return not self._over and (self._drive.closed or self._task is None or self._task.done())

    def _raise_why_stopped(self) -> NoReturn:
        if self._task is not None and not self._task.cancelled():
            self._task.result()  # raises what it could not stage for
        raise WalkClosed(f"the walk of stream {self.stream} is not running")

    async def _run(self) -> None:
        try:
            self._over = await self._drive.run()
        except ResultsAwaited:
            self._over = self._suspended = True
        except DeferredExpandError as error:
            self._failure = Failure.of(error)
            self._over = True
        except asyncio.CancelledError:
            await self._drive.wait_patiently()
            raise
        finally:
            try:
                await self._drive.end()
            finally:
                self._stager.close()
