"""Pages, and the place in a source that a stream has reached."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from deferred_expand.exceptions import CursorNotSerializable
from deferred_expand.streams.units import EMPTY, OpenWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

JSON: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"


@dataclass(frozen=True)
class Page:
    """
    Items that a source gives at once, with the cursor that asks for what follows them.

    :param items: the page's items, in order; each becomes one task instance.
    :param cursor: JSON. When the stream goes on after a crash or a retry, the source is called
        with ``cursor=`` this value and must give the items after this page. ``None`` (the last
        page, or a source that cannot be entered in the middle) means that the stream goes on from
        the cursor before, and passes over what it has already committed.
    """

    items: Sequence[Any]
    cursor: JSON = None


@dataclass(frozen=True)
class SkippedItem:
    """An item whose task instance shall be skipped: a ``map`` function has raised for it."""

    reason: str


@dataclass(frozen=True)
class WrittenItem:
    """
    An item that was written down in another process, which has its class.

    :param error: why it could not be.
    """

    text: str
    error: str | None = None


def check_cursor(cursor: JSON) -> None:
    """:raises CursorNotSerializable: it would not come back from JSON as it is."""
    if not _is_json(cursor):
        # Not the cursor itself, in which there may be a token.
        parts = cursor.values() if isinstance(cursor, dict) else cursor if isinstance(cursor, list) else ()
        bad = sorted({type(part).__name__ for part in parts if not _is_json(part)})
        holding = f" holding {', '.join(bad)}" if bad else ""
        raise CursorNotSerializable(
            f"a page's cursor is of type {type(cursor).__name__}{holding}, "
            "which is not JSON (null, bool, finite number, str, list or dict with str keys): the stream "
            "could not go on from it"
        )


def _is_json(value: Any) -> bool:
    try:
        same: bool = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        return False
    return same


@dataclass(frozen=True)
class Position:
    """
    A place in a source: the last cursor, and how many items after it are already taken.

    Exact whether a batch ends at a page's end or inside a page, and with a source that takes no
    cursor at all (then ``cursor`` stays ``None`` and ``skip`` counts from the start).

    :param window: that is open there, where the stream is cut into windows.
    """

    cursor: JSON = None
    skip: int = 0
    window: OpenWindow = EMPTY

    @property
    def of_open_window(self) -> Position:
        """Where the window begins that is open here; without one, here."""
        return Position(*self.window.begins) if self.window.items else self

    def after(self, count: int) -> Position:
        """The place ``count`` items further on, with no new cursor."""
        return Position(self.cursor, self.skip + count)

    def to_json(self) -> dict[str, JSON]:
        """The cursor as text: in an XCom, Airflow would take keys like ``__type`` for its own."""
        window: dict[str, JSON] = {"window": self.window.to_json()} if self.window.items else {}
        return {"cursor": json.dumps(self.cursor), "skip": self.skip, **window}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Position:
        window = OpenWindow.from_json(data.get("window"))
        return cls(cursor=json.loads(data["cursor"]), skip=data["skip"], window=window)


START = Position()
