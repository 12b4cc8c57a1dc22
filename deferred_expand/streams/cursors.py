"""Telling a source that goes in circles from one that advances."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deferred_expand.streams.page import JSON


class CursorWatch:
    """
    Notices a cursor that comes again, by remembering two of them (Brent's algorithm).

    The last cursor, so that one that stands still is seen at once; and a mark, moved on after 1, 2,
    4, 8, ... pages, which any circle runs into within a few rounds, however long it is.

    :param cursor: after which the source is opened.
    :param items: given up to there.
    """

    def __init__(self, cursor: JSON, items: int) -> None:
        self._last = self._mark = (cursor, items)
        self._steps, self._until_next_mark = 0, 1

    def items_since(self, cursor: JSON, items: int) -> int:
        """
        How many items came since this cursor was given before; 0: it is new, or nothing came.

        :param items: given up to this cursor.
        """
        if cursor is None:
            return 0
        for seen, items_then in (self._last, self._mark):
            if seen == cursor and items > items_then:
                return items - items_then
        self._last = (cursor, items)
        self._steps += 1
        if self._steps == self._until_next_mark:
            self._mark = self._last
            self._steps, self._until_next_mark = 0, 2 * self._until_next_mark
        return 0
