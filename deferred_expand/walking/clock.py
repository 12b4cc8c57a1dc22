"""How long a source is waited for, and for how long it may be."""

from __future__ import annotations

import asyncio
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deferred_expand.exceptions import SourceTimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.walking.policy import WalkPolicy

STOPPED_LOOK = 1.0  # seconds between two looks at a clock that is stopped, at least


class PageTimedOut(TimeoutError):
    """The source gave nothing for ``page_timeout`` seconds; it may be asked again."""


class SourceClock:
    """
    Runs while the source is waited for, and is stopped while anything else is.

    That an item has come costs an assignment, and no timer: who waits looks when a limit may have passed.

    :param waited: seconds that this try of the stream head has waited for the source before.
    :ivar heard_at: when the source last gave something, in the loop's time.
    """

    def __init__(self, policy: WalkPolicy, waited: float = 0.0) -> None:
        self.heard_at = 0.0
        self._policy = policy
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
        try:
            yield
        finally:
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
        limit = self._policy.execution_timeout
        return math.inf if limit is None else limit - self.waited

    def due_in(self) -> float | None:
        """Seconds after which to look for a limit that has passed; ``None``: there is none."""
        page = self._policy.page_timeout
        if self._runs_since is None:
            due = max(self.left, STOPPED_LOOK)
        else:
            due = max(0.0, min(self.left, math.inf if page is None else self.heard_at + page - _now()))
        due = min(due, math.inf if page is None else page)
        return None if due == math.inf else due

    def late(self) -> PageTimedOut | SourceTimedOut | None:
        """Which limit has passed."""
        if self._runs_since is None:
            return None
        used_up, page = self.used_up(), self._policy.page_timeout
        if used_up is None and page is not None and _now() >= self.heard_at + page:
            return PageTimedOut(f"{self._policy.name} gave nothing for {page:g} s, its page_timeout")
        return used_up

    def used_up(self) -> SourceTimedOut | None:
        """Nothing is left of ``execution_timeout``."""
        if self.left > 0:
            return None
        return SourceTimedOut(
            f"{self._policy.name} was waited for longer than the execution_timeout of the task, "
            f"{self._policy.execution_timeout:g} s in all"
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
