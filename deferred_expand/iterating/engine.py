"""Runs items, a number of them at a time, until all have ended or too many have failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deferred_expand.iterating.ledger import FAILED
from deferred_expand.iterating.spool import Row
from deferred_expand.walking.retry import is_transient
from deferred_expand.walking.tasks import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from deferred_expand.iterating.checkpoints import Checkpoints
    from deferred_expand.iterating.ledger import Ledger
    from deferred_expand.iterating.limits import Limits
    from deferred_expand.walking.retry import SourceRetry

FAILURES_KEPT = 100  # whose errors are told; of the others how many there are


@dataclass(frozen=True)
class Item:
    """
    :param digest: of what it is given; empty where that has no stable form.
    :param given: for whoever runs it.
    """

    index: int
    digest: str
    given: Any


@dataclass(frozen=True)
class Ended:
    """
    How an item ended.

    :param outcome: ``"done"``, ``"skipped"`` or ``"failed"``.
    :param text: its result, why it was skipped, or its error.
    :param beside: what else it left behind.
    :param error: why it failed.
    :param for_good: no other try shall run it.
    """

    outcome: str
    text: str | None = None
    beside: dict[str, Any] | None = None
    error: BaseException | None = None
    for_good: bool = False


@dataclass
class Tally:
    """
    What became of the items of one task instance, those of earlier tries among them.

    :param total: ``None``: not known.
    :param for_good: of those that failed, whom no retry runs again.
    :param failures: errors, by index.
    :param ended_early: why no more items were taken.
    """

    total: int | None
    done: int = 0
    skipped: int = 0
    failed: int = 0
    for_good: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    ended_early: str | None = None

    @property
    def ended(self) -> int:
        return self.done + self.skipped + self.failed

    def count(self, index: int, outcome: str, text: str | None, *, for_good: bool) -> None:
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == FAILED:
            self.for_good += for_good
            if len(self.failures) < FAILURES_KEPT:
                self.failures[index] = text or ""

    def failures_to_json(self) -> list[list[Any]]:
        return [[index, error] for index, error in sorted(self.failures.items())]

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total, "done": self.done, "skipped": self.skipped, "failed": self.failed}


class Engine:
    """
    One try.

    :param run_item: raises nothing; it may be cancelled.
    :param retry: of an item, within this try.
    """

    def __init__(
        self,
        run_item: Callable[[Item], Awaitable[Ended]],
        ledger: Ledger,
        limits: Limits,
        total: int | None,
        retry: SourceRetry | None = None,
    ) -> None:
        self.limits = limits
        self.tally = Tally(total)
        self._run_item, self._ledger, self._retry = run_item, ledger, retry
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def change(self, limits: Limits) -> None:
        """They hold from the next item on."""
        self.limits = limits
        self._see_whether_too_many_failed()
        self._changed.set()

    def end_early(self, reason: str, *, now: bool = False) -> None:
        """
        Take no more items.

        :param now: those that run are cancelled.
        """
        self.tally.ended_early = self.tally.ended_early or reason
        if now:
            for task in self._running:
                task.cancel()
        self._changed.set()

    async def run(self, items: AsyncIterator[Item], checkpoints: Checkpoints) -> Tally:
        """To the end of all items, of those that run at least. Their rows may be unwritten then."""
        try:
            async for item in items:
                row = self._ledger.find(item.index, item.digest)
                if row is not None:
                    self.tally.count(item.index, row.outcome, row.text, for_good=True)
                elif await self._has_place(checkpoints):
                    task = asyncio.create_task(self._run(item, checkpoints), name=f"item {item.index}")
                    self._running.add(task)
                    task.add_done_callback(self._leave)
                if self.tally.ended_early:
                    break
            while self._running:
                await self._wait()
        finally:
            await end(*self._running)
        return self.tally

    async def _has_place(self, checkpoints: Checkpoints) -> bool:
        while not self.tally.ended_early:
            if self.limits.stop:
                self.end_early("a person has stopped it")
            elif checkpoints.holds:
                await checkpoints.pass_one()
            elif len(self._running) >= self.limits.concurrency:
                await self._wait()
            else:
                return True
        return False

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end_early(f"{task.get_name()} could not be told the end of: {error!r}", now=True)
        self._changed.set()

    async def _run(self, item: Item, checkpoints: Checkpoints) -> None:
        ended = await self._try(item)
        if ended.outcome != FAILED or ended.for_good:
            row = Row(item.index, item.digest, ended.outcome, ended.text, ended.beside)
            await checkpoints.note(self._ledger.add(row))
        self.tally.count(item.index, ended.outcome, ended.text, for_good=ended.for_good)
        self._see_whether_too_many_failed()

    def _see_whether_too_many_failed(self) -> None:
        tally = self.tally
        if tally.failed and self.limits.tolerance.is_exceeded(tally.failed, tally.ended, tally.total):
            self.end_early(f"more items failed than tolerate={self.limits.tolerate!r} allows")

    async def _try(self, item: Item) -> Ended:
        attempt = 1
        while True:
            ended = await self._run_item(item)
            error, retry = ended.error, self._retry
            if error is None or ended.for_good or retry is None or not is_transient(error):
                return ended
            delay = retry.delay(error, attempt) if attempt < retry.attempts else None
            if delay is None or self.tally.ended_early:
                return ended
            await asyncio.sleep(delay)
            attempt += 1
