"""How a walk is doing, for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deferred_expand.streams.events import WaitsFor, WalkState

if TYPE_CHECKING:
    from deferred_expand.walking.batching import Batcher
    from deferred_expand.walking.clock import SourceClock
    from deferred_expand.walking.pace import Pace
    from deferred_expand.walking.pulling import Puller


class WalkTeller:
    """Looks at the parts of a walk, which know nothing of it."""

    def __init__(self, source: Puller, batcher: Batcher, pace: Pace, clock: SourceClock) -> None:
        self._source, self._batcher, self._pace, self._clock = source, batcher, pace, clock
        self._reopened, self._error, self._retries = 0, "", False
        self._waited_for: tuple[WaitsFor | None, int] = (None, 0)  # what, and since when

    def note_error(self, error: str) -> None:
        """The source is opened again after a pause."""
        self._reopened, self._error, self._retries = self._reopened + 1, error, True

    def note_going_on(self) -> None:
        self._retries = False

    @property
    def state(self) -> WalkState:
        waits_for = self._waits_for()
        if waits_for != self._waited_for[0]:
            self._waited_for = waits_for, int(time.time())
        return WalkState(self._source.given, *self._waited_for, self._reopened, self._error or None)

    def _waits_for(self) -> WaitsFor | None:
        if self._pace.paused:
            return "pause"
        if self._retries:
            return "retry"
        staging = self._batcher.waits_for
        if staging == "commits" or staging is None:
            return staging
        source, buffer = self._source, self._source.buffer
        held = self._pace.holds_back(source.taken, source.given, len(buffer), buffer.oldest)
        if held is not None:
            return held
        return "results" if self._clock.is_elsewhere else "items"
