"""Results of items: XComs of the task instances that have run them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import BaseXCom, XCom
from deferred_expand.committing.codec import decode_item

if TYPE_CHECKING:
    from collections.abc import Iterable

RESULTS_KEY = "deferred_expand.results"
RETURNED = "return_value"
RESULTS_PER_XCOM = 500
BYTES_PER_XCOM = 1_000_000


class Publisher:
    """
    Writes down one XCom of the items of a task instance, in their order. It blocks.

    :param where: the instance.
    """

    def __init__(self, key: str, where: dict[str, Any]) -> None:
        self._key, self._where = key, where
        self._counts: list[int] = []
        self._chunk: list[list[Any]] = []
        self._size = 0

    def add(self, index: int, text: str) -> None:
        self._chunk.append([index, text])
        self._size += len(text)
        if len(self._chunk) == RESULTS_PER_XCOM or self._size > BYTES_PER_XCOM:
            self._write()

    def close(self) -> None:
        """Nothing can be read before."""
        if self._chunk:
            self._write()
        BaseXCom.set(key=_key_of(self._key), value=self._counts, **self._where)

    def _write(self) -> None:
        XCom.set(key=_key_of(self._key, len(self._counts)), value=self._chunk, **self._where)
        self._counts.append(len(self._chunk))
        self._chunk, self._size = [], 0


def _key_of(key: str, number: int | None = None) -> str:
    return f"{RESULTS_KEY}.{key}" if number is None else f"{RESULTS_KEY}.{key}.{number}"


class IteratedResults(Sequence[Any]):
    """
    Results in the order of the items, read as they are asked for; a chunk is in memory at a time.

    Items that were skipped, or failed and are tolerated, have none.

    :param where: the task.
    :param instances: that have run the items.
    :param key: of the items' XComs.
    """

    def __init__(self, where: dict[str, Any], instances: int, key: str = RETURNED) -> None:
        self._where, self._instances, self._key = where, instances, key
        self._known: list[list[int]] | None = None

    def _counts(self) -> list[list[int]]:
        """Of each instance, the results in each of its XComs."""
        if self._known is None:
            found = (
                BaseXCom.get_one(key=_key_of(self._key), map_index=index, **self._where)
                for index in range(self._instances)
            )
            self._known = [counts or [] for counts in found]
        return self._known

    def __len__(self) -> int:
        return sum(map(sum, self._counts()))

    def __iter__(self) -> Iterator[Any]:
        instances = [self._rows(index, range(len(counts))) for index, counts in enumerate(self._counts())]
        for _, text in heapq.merge(*instances, key=lambda row: row[0]):
            yield decode_item(text)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        place = place + len(self) if place < 0 else place
        if not 0 <= place < len(self):
            raise IndexError(place)
        if self._instances > 1:
            return next(islice(self, place, None))
        for number, count in enumerate(self._counts()[0]):
            if place < count:
                return decode_item(next(islice(self._rows(0, [number]), place, None))[1])
            place -= count
        raise IndexError(place)

    def __repr__(self) -> str:
        return f"<results of the items of task {self._where['task_id']!r}>"

    def _rows(self, map_index: int, chunks: Iterable[int]) -> Iterator[tuple[int, str]]:
        for number in chunks:
            key = _key_of(self._key, number)
            yield from XCom.get_one(key=key, map_index=map_index, **self._where)
