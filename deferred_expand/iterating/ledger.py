"""
Which items have ended, and how: kept where the next try finds it.

Rows are kept in chunks. The last chunk is written again with each checkpoint until it is full; full ones
never are. A row that is written is the end of its item: no retry runs it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from deferred_expand.iterating.spool import Row, Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

LEDGER_VERSION = 1
LEDGER_KEY = "deferred_expand.items"
FORGET_KEY = "deferred_expand.forget"
FAILURES_KEY = "deferred_expand.failures"
CHUNK_BYTES = 60_000  # Airflow warns above 65,535 (``[state_store] max_value_storage_bytes``)
DONE, SKIPPED, FAILED = "done", "skipped", "failed"
WAITING, FORGOTTEN = "waiting", "forgotten"


class Records(Protocol):
    """Where chunks are kept, as Airflow's task state store does. Its calls block."""

    def get(self, key: str) -> Any:
        """``None``: there is none."""

    def set(self, key: str, value: Any) -> None:
        """:raises Exception: it is not known whether it is written."""

    def delete(self, key: str) -> None:
        """Also where there is none."""


@dataclass(frozen=True)
class Unwritten:
    """
    Chunks to be written, and how many there are then.

    :param rows: that the ledger had when these were taken.
    """

    chunks: list[tuple[int, list[list[Any]]]]
    chunk_count: int
    rows: int


class Ledger:
    """
    Of one task instance. Methods that block say so; no two of those may run at once.

    :param clear: what all tries of one clear have in common, and no other's.
    :param try_number: whose failures are no other try's.
    :ivar is_complete: the items have ended in this clear as their author wants it.
    """

    def __init__(
        self,
        records: Records,
        spool: Spool,
        clear: int,
        try_number: int,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._records, self._spool, self._clear, self._try = records, spool, clear, try_number
        self._chunk_bytes = chunk_bytes
        self._generation, self._chunk, self._size = 1, 0, 0
        self._unwritten: dict[int, list[list[Any]]] = {0: []}  # the open chunk, and full ones to be written
        self._added = self._written = 0
        self.is_complete = False

    # -- what earlier tries have written -----------------------------------------------------------

    def load(self) -> None:
        """
        Read it. This blocks.

        Complete in another clear, it is what a person wants to have again: it begins anew.
        """
        head = self._records.get(LEDGER_KEY)
        forget = self._records.get(FORGET_KEY)
        if head is not None and self._is_over(head, forget):
            self._begin_anew(head["chunks"])
            return
        for row in self._read():
            self._spool.put(row)
        if forget is not None:
            self._forget(forget)

    def _is_over(self, head: dict[str, Any], forget: Any) -> bool:
        if head["version"] != LEDGER_VERSION:
            raise ValueError(
                f"this release reads version {LEDGER_VERSION} of a ledger of items, not {head['version']!r}: "
                "finish the run with the release it was started with, or delete "
                f"{LEDGER_KEY!r} from the task state store"
            )
        self._generation = head["generation"]
        self.is_complete = head["complete"] and forget is None
        return self.is_complete and head["clear"] != self._clear

    def _begin_anew(self, chunks: int) -> None:
        old, self._generation, self.is_complete = self._generation, self._generation + 1, False
        self.write(self.take_unwritten(), {})
        for number in range(chunks):
            self._records.delete(self._chunk_key(number, old))

    def _read(self) -> Iterator[Row]:
        while (rows := self._records.get(self._chunk_key(self._chunk))) is not None:
            for row in rows:
                yield Row(*row)
            self._chunk += 1
        self._unwritten = {self._chunk: []}

    def _forget(self, indexes: Any) -> None:
        """:param indexes: of the items; ``"failed"``: of those that have failed, which is done anyway."""
        for index in indexes if isinstance(indexes, list) else []:
            if self._spool.get(index) is not None:
                self.add(Row(index, "", FORGOTTEN))
        unwritten = self.take_unwritten()
        self.write(unwritten, {})
        self.note_written(unwritten)
        self._records.delete(FORGET_KEY)

    def find(self, index: int, digest: str) -> Row | None:
        """
        How an item has ended, if it needs not run.

        :param digest: of what it is given now; if that has changed, it has not ended.
        """
        row = self._spool.get(index)
        if row is None or row.outcome in (WAITING, FORGOTTEN):
            return None
        if row.digest != digest or (row.outcome == FAILED and not self._has_failed_now(row)):
            self._spool.put(Row(index, "", FORGOTTEN))
            return None
        return row

    def _has_failed_now(self, row: Row) -> bool:
        """For good, of this clear; or in this very try, which has come back to go on."""
        return self._is_of_now(row) and (row.beside or {}).get("try", self._try) == self._try

    def left_waiting(self) -> list[int]:
        """Items that an earlier try of this clear has, or the same one before it came back."""
        return [row.index for row in self._spool if row.outcome == WAITING and self._is_of_now(row)]

    def _is_of_now(self, row: Row) -> bool:
        return (row.beside or {}).get("clear") == self._clear

    def kept(self, index: int, digest: str) -> dict[str, Any] | None:
        """With what one of them goes on, if it is still given the same."""
        row = self._spool.get(index)
        if row is None or row.outcome != WAITING or row.digest != digest or not self._is_of_now(row):
            return None
        return {key: value for key, value in (row.beside or {}).items() if key != "clear"}

    def tell(self, index: int, more: dict[str, Any], *, write: bool) -> None:
        """
        What an item goes on with that was left waiting.

        :param write: ``False``: only this process knows it.
        """
        row = self._spool.get(index)
        if row is None or row.outcome != WAITING:
            return
        row = replace(row, beside={**(row.beside or {}), **more})
        if write:
            self.add(row)
        else:
            self._spool.put(row)

    # -- what this one writes ----------------------------------------------------------------------

    def add(self, row: Row, *, for_now: bool = False) -> int:
        """
        :param for_now: it has failed, and another try may run it.
        :return: how many rows must be written for this one to be.
        """
        if row.outcome in (FAILED, WAITING):
            until = {"clear": self._clear, **({"try": self._try} if for_now else {})}
            row = replace(row, beside={**(row.beside or {}), **until})
        self._spool.put(row)
        written = row.to_json()
        size = len(json.dumps(written)) + 2
        if self._size and self._size + size > self._chunk_bytes:
            self._chunk, self._size = self._chunk + 1, 0
            self._unwritten[self._chunk] = []
        self._unwritten[self._chunk].append(written)
        self._size += size
        self._added += 1
        return self._added

    @property
    def written(self) -> int:
        """Rows of this try."""
        return self._written

    @property
    def unwritten(self) -> int:
        """Rows of this try."""
        return self._added - self._written

    def take_unwritten(self) -> Unwritten:
        chunks = [(number, list(rows)) for number, rows in self._unwritten.items() if self.unwritten]
        return Unwritten(chunks, self._chunk + 1, self._added)

    def write(self, unwritten: Unwritten, progress: dict[str, Any] | None, *, complete: bool = False) -> None:
        """
        Write what was taken. This blocks; items may end meanwhile. After an error the same, and more, can
        be taken again.

        :param progress: for people who look at the records; ``None``: another time.
        """
        for number, rows in unwritten.chunks:
            self._records.set(self._chunk_key(number), rows)
        if progress is None:
            return
        head = {
            "version": LEDGER_VERSION,
            "generation": self._generation,
            "chunks": unwritten.chunk_count,
            "clear": self._clear,
            "complete": complete,
            **progress,
        }
        self._records.set(LEDGER_KEY, head)

    def note_written(self, unwritten: Unwritten) -> None:
        self._written = unwritten.rows
        for number, rows in unwritten.chunks:
            if number < unwritten.chunk_count - 1 and len(rows) == len(self._unwritten[number]):
                del self._unwritten[number]  # it is full

    def _chunk_key(self, number: int, generation: int | None = None) -> str:
        return f"{LEDGER_KEY}.{generation or self._generation}.{number}"
