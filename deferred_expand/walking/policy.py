"""How a walk goes about its source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deferred_expand.streams.units import ITEM, Unit
from deferred_expand.walking.clock import NO_LIMITS, TimeLimits

if TYPE_CHECKING:
    from deferred_expand.walking.retry import SourceRetry


@dataclass(frozen=True)
class WalkPolicy:
    """
    :param batch_size: items in a batch at most.
    :param batch_interval: seconds between two batches at least, where they are not full.
    :param source_retries: how often the walk opens a broken source again, or writes a batch again.
    :param retry: what a hiccup may cost before that; ``None``: it counts as any other error.
    :param walk_ahead: staged items, not yet committed, at which the walk pauses.
    :param walk_ahead_bytes: the same for their size.
    :param max_batch_bytes: size of a batch at most; keeps what is in memory small when items are large.
    :param limits: of the time that the source may take.
    :param max_items: at which the stream ends, whatever the source has left.
    :param unit: what is counted.
    :param ends_at: when the stream ends, in seconds since the epoch, whatever the source has left.
    :param resumable: the source takes a cursor; otherwise it is walked from the start again.
    """

    batch_size: int
    batch_interval: float
    source_retries: int
    resumable: bool
    walk_ahead: float
    walk_ahead_bytes: float
    max_batch_bytes: int
    retry: SourceRetry | None = None
    limits: TimeLimits = NO_LIMITS
    max_items: float = math.inf
    unit: Unit = ITEM
    ends_at: float | None = None

    @property
    def name(self) -> str:
        """Of the source, for messages."""
        return self.limits.name
