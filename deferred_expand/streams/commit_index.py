"""
Where the items of a commit log lie: a tree of pages with :data:`INDEX_ENTRIES` entries each.

The log holds what is in no page yet. Pages never change once the log has passed them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deferred_expand.streams.page import JSON

INDEX_ENTRIES = 32

IndexEntry = tuple[int, str]
"""Number of the first item in a batch or page, and the name of that."""
IndexPage = tuple[IndexEntry, ...]


def page_to_json(page: IndexPage) -> JSON:
    return [list(entry) for entry in page]


def page_from_json(data: list[list[Any]]) -> IndexPage:
    return tuple((first, name) for first, name in data)


def batch_name(number: int, writer: str) -> str:
    """A batch's name within its stream; two walks never use the same."""
    return f"{number}.{writer}"


def enter(index: list[list[IndexEntry]], pages: dict[str, IndexPage], number: int, entry: IndexEntry) -> None:
    """Add the entry of the batch with a number; where that fills a page, its entry one level higher."""
    for level, entries in enumerate(index):
        entries.append(entry)
        if len(entries) < INDEX_ENTRIES:
            return
        number //= INDEX_ENTRIES
        name = f"{level}.{number}"
        pages[name] = tuple(entries)
        entry = (entries[0][0], name)
        entries.clear()
    index.append([entry])


def locate(index: Sequence[IndexPage], item: int, read_page: Callable[[str], IndexPage]) -> IndexEntry | None:
    """
    The batch that holds a committed item, counted from 1.

    :param index: of the log.
    :param read_page: an index page; each level of the tree costs one, and none is for the last items.
    :return: ``None``: a page is gone.
    """
    level = next(n for n, page in enumerate(index) if page and page[0][0] <= item)
    entry = _last_before(index[level], item)
    for _ in range(level):
        page = read_page(entry[1])
        if not page:
            return None
        entry = _last_before(page, item)
    return entry


def locate_all(
    index: Sequence[IndexPage], item: int, read_page: Callable[[str], IndexPage]
) -> list[str] | None:
    """
    The batches of what counts as one item and lies in several: a window, counted from 1.

    :param index: of the log.
    :param read_page: an index page; as :func:`locate`, and one for each that is full of its batches.
    :return: their names, in order; ``None``: a page is gone.
    """
    names: list[str] = []
    for level in reversed(range(len(index))):
        found = _names_of(index[level], level, item, read_page)
        if found is None:
            return None
        names += found
    return names


def _names_of(
    page: IndexPage, level: int, item: int, read_page: Callable[[str], IndexPage]
) -> list[str] | None:
    """Of a page, the batches of the item; one page may end with those, and the next begin with more."""
    first = bisect_left(page, item, key=lambda entry: entry[0])
    end = bisect_right(page, item, key=lambda entry: entry[0])
    if level == 0:
        return [name for _, name in page[first:end]]
    names: list[str] = []
    for _, name in page[max(0, first - 1) : end]:
        below = read_page(name)
        found = _names_of(below, level - 1, item, read_page) if below else None
        if found is None:
            return None
        names += found
    return names


def _last_before(page: IndexPage, item: int) -> IndexEntry:
    return page[bisect_right(page, item, key=lambda entry: entry[0]) - 1]
