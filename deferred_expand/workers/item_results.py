"""Results of items: XComs of the task instances that have run them."""

from __future__ import annotations

import heapq
from functools import cached_property
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import BaseXCom, XCom
from deferred_expand.committing.codec import decode_item
from deferred_expand.workers.lazy import LazySequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from deferred_expand.iterating.spool import Row

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


def publish(rows: Iterable[Row], where: dict[str, Any]) -> None:
    """
    Write down what items have returned and pushed. It blocks.

    :param rows: of those that are done, in their order.
    :param where: the task instance.
    """
    publishers = {RETURNED: Publisher(RETURNED, where)}
    for row in rows:
        texts = {RETURNED: row.text, **(row.beside or {}).get("xcoms", {})}
        for key, text in texts.items():
            if text is not None:
                publishers.setdefault(key, Publisher(key, where)).add(row.index, text)
    for publisher in publishers.values():
        publisher.close()


def _key_of(key: str, number: int | None = None) -> str:
    return f"{RESULTS_KEY}.{key}" if number is None else f"{RESULTS_KEY}.{key}.{number}"


class IteratedResults(LazySequence[Any]):
    """
    Results in the order of the items, read as they are asked for; of each instance that deals in turn
    a chunk is in memory at a time.

    Items that were skipped, or failed and are tolerated, have none.

    :param where: the task.
    :param instances: map indexes of those that have run the items.
    :param in_turn: the items were dealt out to them one by one; else each has had those that follow the
        last one's.
    :param key: of the items' XComs.
    """

    def __init__(
        self, where: dict[str, Any], instances: Sequence[int], *, in_turn: bool, key: str = RETURNED
    ) -> None:
        self._where, self._instances, self._key = where, instances, key
        self._in_turn = in_turn and len(instances) > 1

    @cached_property
    def _counts(self) -> list[list[int]]:
        """Of each instance, the results in each of its XComs."""
        key = _key_of(self._key)
        return [
            BaseXCom.get_one(key=key, map_index=map_index, **self._where) or []
            for map_index in self._instances
        ]

    def __len__(self) -> int:
        return sum(map(sum, self._counts))

    def __iter__(self) -> Iterator[Any]:
        of_instances = [
            self._rows(map_index, range(len(counts)))
            for map_index, counts in zip(self._instances, self._counts, strict=True)
        ]
        rows = (
            heapq.merge(*of_instances, key=itemgetter(0))
            if self._in_turn
            else chain.from_iterable(of_instances)
        )
        return (decode_item(text) for _, text in rows)

    def at(self, index: int) -> Any:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(place)
        if self._in_turn:
            return next(islice(self, place, None))
        for map_index, counts in zip(self._instances, self._counts, strict=True):
            for number, count in enumerate(counts):
                if place < count:
                    return decode_item(next(islice(self._rows(map_index, [number]), place, None))[1])
                place -= count
        raise IndexError(place)

    def __repr__(self) -> str:
        return f"<results of the items of task {self._where['task_id']!r}>"

    def _rows(self, map_index: int, chunks: Iterable[int]) -> Iterator[tuple[int, str]]:
        for number in chunks:
            key = _key_of(self._key, number)
            yield from XCom.get_one(key=key, map_index=map_index, **self._where)
