"""Where the windows of a stream begin and end, as its batches are staged."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from deferred_expand.streams.units import EMPTY

if TYPE_CHECKING:
    from deferred_expand.streams.page import Position
    from deferred_expand.streams.units import OpenWindow, Unit


class Windowing:
    """
    What each batch of a walk counts, and when the window that is open is over.

    Of items, and of batches, there are no windows: nothing is ever open then.

    :param open_window: where the walk begins.
    """

    def __init__(self, unit: Unit, open_window: OpenWindow) -> None:
        self.open = open_window
        self._unit = unit
        self._closes = False  # it shall, whatever it has
        self._closes_at: float | None = None  # at the latest, in the loop's time

    def begin(self) -> None:
        """In the event loop, before anything else."""
        self._set(self.open)

    def close(self) -> None:
        """With the items that there are by now."""
        self._closes = self._unit.is_window

    def left(self, full: int) -> int:
        """Items of a batch at most, which would otherwise have as many."""
        return min(full, self.open.left(self._unit)) if self._unit.is_window else full

    @property
    def missing(self) -> int:
        """Items that the open window has less than a full one."""
        return self.open.left(self._unit)

    def due_in(self, *, at_once: bool) -> float | None:
        """
        Seconds until the window closes that has items, if it does before it is full.

        :param at_once: there will be no more items for it.
        """
        if not self._unit.is_window or not self.open.items:
            return None
        if self._closes or at_once:
            return 0.0
        return None if self._closes_at is None else self._closes_at - asyncio.get_running_loop().time()

    def count(self, items: int, before: Position, *, closes: bool = False) -> int:
        """
        Take a batch into account; returns what it adds to what the stream counts.

        :param before: the place in the source where it begins.
        :param closes: the window, though it is not full.
        """
        if not self._unit.is_window:
            return items if self._unit.is_item else 1
        window = self.open.with_more(items, time.time(), (before.cursor, before.skip))
        if not closes and window.left(self._unit):
            self._set(window)
            return 0
        self._closes = False
        self._set(EMPTY)
        return 1

    def _set(self, window: OpenWindow) -> None:
        left = window.closes_in(self._unit, time.time())
        if left is None or not self.open.items or self._closes_at is None:
            self._closes_at = None if left is None else asyncio.get_running_loop().time() + left
        self.open = window
