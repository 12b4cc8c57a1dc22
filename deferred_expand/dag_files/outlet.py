"""What a source gives in a DAG file process, on its way to the trigger runner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from deferred_expand.committing.codec import write_item
from deferred_expand.streams.page import JSON, Page, WrittenItem, check_cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

AHEAD_ITEMS = 256  # that are kept before the runner asks for them, at most,
AHEAD_CHARACTERS = 65536  # and their size

PlainPages = list[tuple[list[tuple[str, "str | None"]], JSON]]
"""Texts of items, or why there is none, page by page, each with its cursor."""


class Outlet:
    """
    Keeps pages until the runner asks for more, and gives all that there are at once.

    :param tell: takes what is given.
    :param reads_ahead: whether the source may be asked for what the runner has not asked for.
    :param walked: what the walk has of the source, as the stream counts; the runner says it anew whenever it
        asks for more.
    """

    def __init__(
        self, tell: Callable[[PlainPages], None], *, reads_ahead: bool, walked: int, unit_size: int
    ) -> None:
        self._walked, self._unit_size = walked, unit_size
        self._given = self._given_walked = (
            0  # items in this opening of the source, and what of them is walked
        )
        self._tell = tell
        self._reads_ahead = reads_ahead
        self._pages: PlainPages = []
        self._items = 0
        self._size = 0
        self._wanted = False
        self._room = asyncio.Event()

    @property
    def given(self) -> int:
        """What the source has given as the stream counts; where windows may close early: at least."""
        waiting = self._given - self._given_walked
        return self._walked + (max(1, waiting // self._unit_size) if waiting else 0)

    def want(self, walked: int) -> None:
        """The runner asks for more, and has all that it was told."""
        self._walked, self._given_walked = walked, self._given - self._items
        self._wanted = True
        self._room.set()
        self._flush()

    def add(self, page: Any) -> None:
        """:param page: a page, or one item."""
        items, cursor = (page.items, page.cursor) if isinstance(page, Page) else ([page], None)
        check_cursor(cursor)
        written = [write_item(item) for item in items]
        self._pages.append(([(item.text, item.error) for item in written], cursor))
        self._given += len(written)
        self._items += len(written)
        self._size += sum(len(item.text) for item in written)
        self._flush()

    async def until_wanted(self) -> None:
        """Wait until the source may be asked for more."""
        while not (self._wanted or (self._reads_ahead and self._is_small)):
            self._room.clear()
            await self._room.wait()

    @property
    def _is_small(self) -> bool:
        return self._items < AHEAD_ITEMS and self._size < AHEAD_CHARACTERS

    def _flush(self) -> None:
        if self._wanted and self._pages:
            self._wanted = False
            self._tell(self._pages)
            self._pages, self._items, self._size = [], 0, 0

    async def flushed(self) -> None:
        """Wait until the runner has taken the rest."""
        while self._pages:
            self._room.clear()
            await self._room.wait()


def pages_told(told: Iterable[Any]) -> list[Page]:
    """In the trigger runner: the pages again, with items as they were written down."""
    return [Page([WrittenItem(*item) for item in items], cursor) for items, cursor in told]
