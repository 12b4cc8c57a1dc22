"""Runs items, a number of them at a time, until all have ended or too many have failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deferred_expand.iterating.ledger import FAILED
from deferred_expand.iterating.places import Item, ItemPlace
from deferred_expand.iterating.spool import Row
from deferred_expand.walking.retry import is_transient
from deferred_expand.walking.tasks import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from deferred_expand.iterating.checkpoints import Checkpoints
    from deferred_expand.iterating.ledger import Ledger
    from deferred_expand.iterating.limits import Limits
    from deferred_expand.iterating.places import HandOver
    from deferred_expand.walking.retry import SourceRetry

FAILURES_KEPT = 100  # whose errors are told; of the others how many there are


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
    :param waiting: by index, with what the items that only wait go on, if another process shall wait
        in their stead.
    """

    total: int | None
    done: int = 0
    skipped: int = 0
    failed: int = 0
    for_good: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    ended_early: str | None = None
    waiting: dict[int, dict[str, Any]] = field(default_factory=dict)

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
    :param hand_over: ``None``: who waits is waited for here.
    """

    def __init__(
        self,
        run_item: Callable[[Item, ItemPlace], Awaitable[Ended]],
        ledger: Ledger,
        limits: Limits,
        total: int | None,
        retry: SourceRetry | None = None,
        hand_over: HandOver | None = None,
    ) -> None:
        self.limits = limits
        self.tally = Tally(total)
        self._run_item, self._ledger, self._retry, self._hand_over = run_item, ledger, retry, hand_over
        self._running: dict[asyncio.Task[None], ItemPlace] = {}
        self._changed = asyncio.Event()

    def change(self, limits: Limits) -> None:
        """They hold from the next item on."""
        if limits == self.limits:
            return  # nothing has changed for who waits
        self.limits = limits
        self._see_whether_too_many_failed()
        self._changed.set()

    def end_early(self, reason: str, *, now: bool = False) -> None:
        """
        Take no more items.

        :param now: those that run are cancelled, and who runs them again begins.
        """
        self.tally.ended_early = self.tally.ended_early or reason
        if now:
            for task, place in self._running.items():
                place.forget()
                task.cancel()
        self._changed.set()

    async def run(self, items: AsyncIterator[Item], checkpoints: Checkpoints) -> Tally:
        """
        To the end of all items, of those that run at least, or until nothing is left but to wait.

        What has ended, and who waits, may be unwritten then.

        :param items: those first that were left waiting: they run already.
        """
        try:
            async for item in items:
                row = self._ledger.find(item.index, item.digest)
                if row is not None:
                    for_good = "try" not in (row.beside or {})
                    self.tally.count(item.index, row.outcome, row.text, for_good=for_good)
                    self._see_whether_too_many_failed()
                elif kept := self._ledger.kept(item.index, item.digest):
                    self._start(replace(item, kept=kept), checkpoints)
                    continue
                elif await self._has_place(checkpoints):
                    self._start(item, checkpoints)
                if self.tally.ended_early or self.tally.waiting:
                    break
            while self._running and not self.tally.waiting:
                await self._wait()
        finally:
            await end(*self._running)
        return self.tally

    async def _has_place(self, checkpoints: Checkpoints) -> bool:
        while not self.tally.ended_early and not self.tally.waiting:
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
        """Until something has changed; or until all have only waited for so long that another shall."""
        self._changed.clear()
        only_wait = all(place.only_waits for place in self._running.values())
        after = self._hand_over.after if self._hand_over is not None and only_wait else None
        try:
            await asyncio.wait_for(self._changed.wait(), after)
        except asyncio.TimeoutError:
            self._hand_over_all()

    def _hand_over_all(self) -> None:
        places = self._running.values()
        if self._hand_over is None or not all(place.only_waits for place in places):
            return
        if self._hand_over.takes(places):
            for place in places:
                place.note()
            self.tally.waiting = {place.item.index: place.kept or {} for place in places}

    def _start(self, item: Item, checkpoints: Checkpoints) -> None:
        place = ItemPlace(item, self._ledger, checkpoints, self._changed, checkpoints.interval)
        task = asyncio.create_task(self._run(place, checkpoints), name=f"item {item.index}")
        self._running[task] = place
        task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task).go_on()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end_early(f"{task.get_name()} could not be told the end of: {error!r}", now=True)
        self._changed.set()

    async def _run(self, place: ItemPlace, checkpoints: Checkpoints) -> None:
        ended, item = await self._try(place), place.item
        row = Row(item.index, item.digest, ended.outcome, ended.text, ended.beside)
        checkpoints.mark()
        await checkpoints.note(self._ledger.add(row, for_now=not ended.for_good))
        self.tally.count(item.index, ended.outcome, ended.text, for_good=ended.for_good)
        self._see_whether_too_many_failed()

    def _see_whether_too_many_failed(self) -> None:
        tally = self.tally
        if tally.failed and self.limits.tolerance.is_exceeded(tally.failed, tally.ended, tally.total):
            self.end_early(f"more items failed than tolerate={self.limits.tolerate!r} allows")

    async def _try(self, place: ItemPlace) -> Ended:
        item, attempt = place.item, 1
        while True:
            ended = await self._run_item(item, place)
            if ended.outcome == FAILED:
                place.forget()
            error, retry = ended.error, self._retry
            if error is None or ended.for_good or retry is None or not is_transient(error):
                return ended
            delay = retry.delay(error, attempt) if attempt < retry.attempts else None
            if delay is None or self.tally.ended_early:
                return ended
            await asyncio.sleep(delay)
            attempt += 1
            item = replace(item, kept=None)
