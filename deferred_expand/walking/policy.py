"""How a walk goes about its source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deferred_expand.walking.retry import SourceRetry


@dataclass(frozen=True)
class WalkPolicy:
    """
    :param batch_size: items in a batch at most.
    :param batch_interval: seconds; a batch not yet full is staged when its oldest item is this old.
    :param source_retries: how often the walk opens a broken source again, or writes a batch again.
    :param retry: what a hiccup may cost before that; ``None``: it counts as any other error.
    :param walk_ahead: staged items, not yet committed, at which the walk pauses.
    :param walk_ahead_bytes: the same for their size.
    :param max_batch_bytes: size of a batch at most; keeps what is in memory small when items are large.
    :param page_timeout: seconds that the source may take to give anything.
    :param execution_timeout: seconds that one try of the stream head may wait for the source in all.
    :param max_items: at which the stream ends, whatever the source has left.
    :param name: of the source, for messages.
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
    page_timeout: float | None = None
    execution_timeout: float | None = None
    max_items: float = math.inf
    name: str = "the source"
