"""Items on their way from pages to batches, with the position that belongs to each."""

from __future__ import annotations

from collections import deque
from typing import Any

from deferred_expand.streams.page import JSON, START, Page, Position


class _Segment:
    """Items that follow one cursor; ``after`` is set once the next cursor is known."""

    __slots__ = ("after", "items")

    def __init__(self, items: list[Any], after: Position | None) -> None:
        self.items = items
        self.after = after


class PageBuffer:
    """
    Takes items and pages as they come and gives them out in runs of any length.

    Each run comes with the :class:`Position` right after its last item, so a batch may end in the
    middle of a page. A page's cursor counts only when ``resumable``: for a source that is walked
    from the start again, positions are plain counts.

    :param position: where the source was opened. What follows its cursor and was taken before is
        passed over.
    """

    def __init__(self, position: Position = START, *, resumable: bool = True) -> None:
        self._resumable = resumable
        self._position = position
        self._end = position
        self._to_pass = position.skip
        self._segments: deque[_Segment] = deque()
        self._arrivals: deque[tuple[int, float]] = deque()  # (how many items, when)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def position(self) -> Position:
        """Right after the last item given out."""
        return self._position

    @property
    def end(self) -> Position:
        """Right after the last item put in: where a broken source is opened again."""
        return self._end

    @property
    def still_to_pass_over(self) -> int:
        """Items of an earlier walk that the source has not given again yet."""
        return self._to_pass

    @property
    def oldest(self) -> float | None:
        """When the oldest item came in, in the clock of ``now``; ``None`` when empty."""
        return self._arrivals[0][1] if self._arrivals else None

    def reopen(self) -> Position:
        """The source is opened again from :attr:`end`: pass over what it repeats."""
        self._to_pass = self._end.skip
        return self._end

    def add_item(self, item: Any, now: float) -> None:
        if self._to_pass:
            self._to_pass -= 1
        else:
            self._append([item], None, now)

    def add_page(self, page: Page, now: float) -> None:
        items = list(page.items)
        passed = min(self._to_pass, len(items))
        self._to_pass -= passed
        self._append(items[passed:], page.cursor if self._resumable else None, now)

    def peek(self, count: int) -> list[Any]:
        """The next items, at most ``count``, which stay where they are."""
        run: list[Any] = []
        for segment in self._segments:
            if len(run) == count:
                break
            run += segment.items[: count - len(run)]
        return run

    def drop(self, count: int) -> Position:
        """Take the next ``count`` items off; returns the position right after them."""
        self._length -= count
        self._forget_arrivals(count)
        segments = self._segments
        while segments and len(segments[0].items) <= count:
            segment = segments.popleft()
            count -= len(segment.items)
            self._position = segment.after or self._position.after(len(segment.items))
        if count:
            del segments[0].items[:count]
            self._position = self._position.after(count)
        return self._position

    def _append(self, items: list[Any], cursor: JSON, now: float) -> None:
        # What is still to be passed over after this cursor has been taken, too: by an earlier walk,
        # for which the source had cut its pages in other places.
        after = None if cursor is None else Position(cursor, self._to_pass)
        self._end = after or self._end.after(len(items))
        if items:
            self._length += len(items)
            self._arrivals.append((len(items), now))
        if not self._segments and not items:  # an empty page moves the cursor and nothing else
            self._position = self._end
        elif self._segments and (not items or self._segments[-1].after is None):
            last = self._segments[-1]
            last.items += items
            last.after = after or last.after
        else:
            self._segments.append(_Segment(items, after))

    def _forget_arrivals(self, count: int) -> None:
        while count:
            arrived, when = self._arrivals.popleft()
            if arrived > count:
                self._arrivals.appendleft((arrived - count, when))
            count -= min(arrived, count)
