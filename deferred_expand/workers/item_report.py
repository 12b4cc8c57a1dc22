"""What people are told of the items of a task instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deferred_expand.iterating.engine import Tally

FAILURES_SHOWN = 10


def label_of(tally: Tally) -> str:
    """For the label of the instance, in place of its map index."""
    failed = f", {tally.failed:,} failed" if tally.failed else ""
    skipped = f", {tally.skipped:,} skipped" if tally.skipped else ""
    waiting = f", {len(tally.waiting):,} waiting" if tally.waiting else ""
    return f"{tally.done:,} of {tally.total:,} items done{skipped}{failed}{waiting}"


def failures_of(tally: Tally) -> str:
    """To be put behind it."""
    if not tally.failed:
        return ""
    shown = [f"item {index} ({error})" for index, error in tally.failures_to_json()[:FAILURES_SHOWN]]
    more = f" and {tally.failed - len(shown):,} more" if tally.failed > len(shown) else ""
    return f": {', '.join(shown)}{more}"
