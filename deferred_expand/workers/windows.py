"""Windows of a stream, as the instances of the task over them have them, and as their child runs do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import AirflowSkipException
from deferred_expand.committing.codec import decode_item
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import ItemNotFound
from deferred_expand.streams.ref import StreamRef
from deferred_expand.workers.items import read_log
from deferred_expand.workers.lazy import LazySequence

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW_KEY = "deferred_expand.window"

Part = tuple[str, int]
"""A batch's name, and how many items it has."""


class Window(LazySequence[Any]):
    """
    The items of one window, read batch by batch when they are asked for; no process holds it whole.

    An item that a ``map`` function has skipped is not there when one goes through them; an instance
    that is mapped over it is skipped.

    :param opening: of the stream: another one has other windows.
    :param number: counted from 1.
    :param parts: its batches, where they are known; asked for otherwise.
    """

    def __init__(
        self, store: StreamStore, opening: str, number: int, parts: list[Part] | None = None
    ) -> None:
        self._store = store
        self.opening = opening
        self.number = number
        self._parts = parts
        self._read: tuple[str, list[str]] = ("", [])  # the last batch, with its name

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Window:
        parts = data.get("parts")
        return cls(
            StreamStore(StreamRef(**data["stream"])),
            data["opening"],
            data["number"],
            None if parts is None else [(name, count) for name, count in parts],
        )

    def to_json(self) -> dict[str, Any]:
        """A reference: items stay with the stream."""
        return {"stream": self._store.ref.to_json(), "opening": self.opening, "number": self.number}

    @property
    def ref(self) -> StreamRef:
        return self._store.ref

    @property
    def parts(self) -> list[Part]:
        """:raises ItemNotFound: the stream has no such window any more."""
        if self._parts is None:
            log = read_log(self._store)
            names = self._store.window(log, self.number) if log.stream == self.opening else []
            if not names:
                raise self._gone()
            self._parts = [(name, len(self._texts(name))) for name in names]
        return self._parts

    def __len__(self) -> int:
        return sum(count for _, count in self.parts)

    def at(self, index: int) -> Any:
        """:raises AirflowSkipException: the item is skipped."""
        place = index if index >= 0 else index + len(self)
        for name, count in self.parts:
            if 0 <= place < count:
                return decode_item(self._texts(name)[place])
            place -= count
        raise IndexError(index)

    def __iter__(self) -> Iterator[Any]:
        for name, _ in self.parts:
            for text in self._texts(name):
                try:
                    item = decode_item(text)
                except AirflowSkipException:
                    continue
                yield item

    def __str__(self) -> str:
        return f"window {self.number} of {self._store.ref}"

    def _texts(self, name: str) -> list[str]:
        if self._read[0] != name:
            texts = self._store.read_texts(name)
            if texts is None:
                raise self._gone()
            self._read = name, texts
        return self._read[1]

    def _gone(self) -> ItemNotFound:
        ref = self._store.ref
        return ItemNotFound(
            f"{self} is gone: the stream was opened anew since, or its XComs were deleted. Clear "
            f"{ref.task_id!r} of DAG {ref.dag_id!r}, run {ref.run_id!r}, with its downstream: the stream has "
            "new windows then, and runs of their own for them"
        )


class StreamWindows(LazySequence[Window]):
    """
    The windows of a stream by map index, for the task that is expanded over them; the head has 0.

    :param map_index: of the instance that asks.
    """

    def __init__(self, store: StreamStore, map_index: int) -> None:
        self._store, self._map_index = store, map_index
        self._log = read_log(store)

    def __len__(self) -> int:
        return 1 + self._log.items

    def at(self, index: int) -> Window:
        if self._map_index >= len(self):
            index = self._map_index  # Airflow counts modulo the length, as for items
        elif not 0 <= index < len(self):
            raise IndexError(index)
        return Window(self._store, self._log.stream, index)
