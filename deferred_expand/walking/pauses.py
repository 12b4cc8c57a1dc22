"""Pauses between two looks at what others do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_PAUSE = 5.0  # seconds


def pauses(first: float) -> Iterator[float]:
    """Seconds, longer and longer, for as long as nothing has changed."""
    pause = first
    while True:
        yield pause
        pause = min(1.5 * pause, LONGEST_PAUSE)
