"""What a stream counts, and has a task instance for: an item, a batch, or a window of items."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

UnitKind = Literal["item", "batch", "window"]


@dataclass(frozen=True)
class Unit:
    """
    :param size: items of a window.
    :param every: seconds after its first item at which a window closes, however many items it has.
    """

    kind: UnitKind = "item"
    size: int = 1
    every: float | None = None

    @property
    def is_item(self) -> bool:
        return self.kind == "item"

    @property
    def is_window(self) -> bool:
        return self.kind == "window"

    def counted(self, number: int) -> str:
        """For people."""
        plural = "es" if self.kind == "batch" else "s"
        return f"{number} {self.kind}{plural * (number != 1)}"


ITEM, BATCH = Unit(), Unit("batch")


@dataclass(frozen=True)
class OpenWindow:
    """
    The window that the next item belongs to.

    :param items: that are staged of it.
    :param since: when the first of them was, in seconds since the epoch.
    :param begins: the place in the source where it does: a cursor, and the items after it.
    """

    items: int = 0
    since: float = 0.0
    begins: tuple[Any, int] = (None, 0)

    def with_more(self, count: int, now: float, before: tuple[Any, int]) -> OpenWindow:
        """:param before: the place in the source where these begin."""
        if self.items:
            return replace(self, items=self.items + count)
        return OpenWindow(count, now, before)

    def left(self, unit: Unit) -> int:
        """Items that it can take."""
        return unit.size - self.items

    def closes_in(self, unit: Unit, now: float) -> float | None:
        """Seconds; ``None``: it waits for its last item, or its first."""
        if unit.every is None or not self.items:
            return None
        return max(0.0, self.since + unit.every - now)

    def to_json(self) -> list[Any] | None:
        return [self.items, self.since, json.dumps(self.begins)] if self.items else None

    @classmethod
    def from_json(cls, data: list[Any] | None) -> OpenWindow:
        if not data:
            return EMPTY
        items, since, begins = data
        cursor, skip = json.loads(begins)
        return cls(items, since, (cursor, skip))


EMPTY = OpenWindow()
