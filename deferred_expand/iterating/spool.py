"""What is known of items that have ended, in a file: memory holds eight bytes of each."""

from __future__ import annotations

import json
import tempfile
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Row:
    """
    How an item ended, as it is written down.

    :param digest: of what the item was given; empty where that has no stable form.
    :param outcome: ``"done"``, ``"skipped"``, ``"failed"`` (for good); ``"waiting"`` or ``"forgotten"``,
        where it has not ended.
    :param text: its result, why it was skipped, or its error.
    :param beside: what else it left behind, or with what it goes on.
    """

    index: int
    digest: str
    outcome: str
    text: str | None = None
    beside: dict[str, Any] | None = None

    def to_json(self) -> list[Any]:
        """As short as it goes."""
        fields = [self.index, self.digest, self.outcome, self.text, self.beside]
        while fields[-1] is None:
            fields.pop()
        return fields


class Spool:
    """
    The last row of each item.

    Not thread-safe. Closing it removes the file.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="deferred-expand-")  # noqa: SIM115
        self._places = array("Q")  # of each item's row, counted from 1; 0: there is none
        self._end = 0

    def put(self, row: Row) -> None:
        line = json.dumps(row.to_json(), separators=(",", ":")).encode() + b"\n"
        missing = row.index + 1 - len(self._places)
        if missing > 0:
            self._places.frombytes(bytes(missing * self._places.itemsize))
        self._file.seek(self._end)
        self._file.write(line)
        self._places[row.index] = self._end + 1
        self._end += len(line)

    def get(self, index: int) -> Row | None:
        if index >= len(self._places) or not self._places[index]:
            return None
        self._file.seek(self._places[index] - 1)
        return Row(*json.loads(self._file.readline()))

    def __iter__(self) -> Iterator[Row]:
        """In the order of the items."""
        for index, place in enumerate(self._places):
            if place and (row := self.get(index)) is not None:
                yield row

    def close(self) -> None:
        self._file.close()
