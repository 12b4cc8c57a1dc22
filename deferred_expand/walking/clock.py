"""How long a source is waited for, and for how long it may be."""

from __future__ import annotations

import asyncio
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from deferred_expand.exceptions import SourceTimedOut
from deferred_expand.walking.tasks import end

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")

STOPPED_LOOK = 1.0  # seconds between two looks at a clock that is stopped, at least


class PageTimedOut(TimeoutError):
    """The source gave nothing for ``page_timeout`` seconds; it may be asked again."""


@dataclass(frozen=True)
class TimeLimits:
    """
    :param name: of the source, for messages.
    :param page_timeout: seconds that the source may take to give anything.
    :param execution_timeout: seconds that one try of the stream head may wait for the source in all.
    """

    name: str
    page_timeout: float | None = None
    execution_timeout: float | None = None

    @property
    def for_page(self) -> float:
        return math.inf if self.page_timeout is None else self.page_timeout

    @property
    def in_all(self) -> float:
        return math.inf if self.execution_timeout is None else self.execution_timeout

    def page_timed_out(self) -> PageTimedOut:
        return PageTimedOut(f"{self.name} gave nothing for {self.for_page:g} s, its page_timeout")

    def timed_out(self) -> SourceTimedOut:
        return SourceTimedOut(
            f"{self.name} was waited for longer than the execution_timeout of the task, "
            f"{self.in_all:g} s in all"
        )


NO_LIMITS = TimeLimits("the source")


class SourceClock:
    """
    Runs while the source is waited for, and is stopped while anything else is.

    That an item has come costs an assignment, and no timer: who waits looks when a limit may have passed.

    :param waited: seconds that this try of the stream head has waited for the source before.
    :ivar heard_at: when the source last gave something, in the loop's time.
    :ivar is_elsewhere: what the source waits for is not its own to give.
    """

    def __init__(self, limits: TimeLimits, waited: float = 0.0) -> None:
        self.heard_at = 0.0
        self.is_elsewhere = False
        self._limits = limits
        self._waited = waited
        self._runs_since: float | None = None

    @property
    def waited(self) -> float:
        """Seconds, in this try of the stream head."""
        return self._waited if self._runs_since is None else self._waited + _now() - self._runs_since

    def start(self) -> None:
        """The source is asked: for a page of its own."""
        self.stop()
        self.heard_at = self._runs_since = _now()

    def stop(self) -> None:
        self._waited, self._runs_since = self.waited, None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The source itself waits for what is not its own to give."""
        runs = self._runs_since is not None
        self.stop()
        self.is_elsewhere = True
        try:
            yield
        finally:
            self.is_elsewhere = False
            if runs:
                self.start()

    def hear(self) -> None:
        """The source has given something, whatever comes of it."""
        self.heard_at = _now()

    def begin_try(self) -> None:
        """Count the wait of another try of the stream head, from nothing."""
        self._waited = 0.0
        if self._runs_since is not None:
            self._runs_since = _now()

    @property
    def left(self) -> float:
        """Seconds that are left of ``execution_timeout``."""
        return self._limits.in_all - self.waited

    def due_in(self) -> float | None:
        """Seconds after which to look for a limit that has passed; ``None``: there is none."""
        page = self._limits.for_page
        if self._runs_since is None:
            due = min(page, max(self.left, STOPPED_LOOK))
        else:
            due = max(0.0, min(self.left, self.heard_at + page - _now()))
        return None if due == math.inf else due

    def late(self) -> PageTimedOut | SourceTimedOut | None:
        """Which limit has passed."""
        if self._runs_since is None:
            return None
        used_up = self.used_up()
        if used_up is None and _now() >= self.heard_at + self._limits.for_page:
            return self._limits.page_timed_out()
        return used_up

    def used_up(self) -> SourceTimedOut | None:
        """Nothing is left of ``execution_timeout``."""
        return self._limits.timed_out() if self.left <= 0 else None


async def in_time(waiting: Coroutine[Any, Any, T], clock: SourceClock) -> T:
    """
    What is waited for, if it comes before a limit passes.

    :raises PageTimedOut:
    :raises SourceTimedOut:
    """
    task = asyncio.create_task(waiting, name="a source with a limit")
    try:
        while True:
            await asyncio.wait({task}, timeout=clock.due_in())
            if task.done():
                return task.result()
            late = clock.late()
            if late is not None:
                raise late
    finally:
        await end(task)


def _now() -> float:
    return asyncio.get_running_loop().time()
