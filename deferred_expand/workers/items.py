"""A stream as the instances of the task over it see it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from deferred_expand.committing.codec import decode_item
from deferred_expand.committing.store import CommittedBatch
from deferred_expand.exceptions import StreamError
from deferred_expand.shaping.pipeline import shape_one
from deferred_expand.workers.lazy import LazySequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.committing.store import StreamStore
    from deferred_expand.shaping.steps import Steps
    from deferred_expand.streams.commit_log import CommitLog


class BatchItems:
    """
    The items of the batch that an instance has where each has one: a column of what is mapped over.

    :param steps: maps that are applied when an item is finished.
    :param map_index: of the instance: batch n is read by the one with map index n.
    """

    def __init__(self, store: StreamStore, steps: Steps, map_index: int) -> None:
        self._steps = steps
        self._texts = store.read_batch(read_log(store), map_index).texts

    def __len__(self) -> int:
        return len(self._texts)

    def read(self, index: int) -> str:
        """As it is written down."""
        return self._texts[index]

    def finish(self, text: str) -> Any:
        """:raises AirflowSkipException: the item shall be skipped."""
        return shape_one(decode_item(text), self._steps)


def read_log(store: StreamStore) -> CommitLog:
    """:raises StreamError: the stream is not open."""
    log = store.read_log()
    if log is None:
        raise StreamError(
            f"{store.ref} was never opened, or its XComs were deleted. "
            f"Clear {store.ref.task_id!r} with its downstream"
        )
    return log


class StreamItems(LazySequence[Any]):
    """
    The committed items of a stream, by map index: item n has map index n, the stream head has 0; in a task
    group, which has none, it has n - 1.

    Nothing is read before it is asked for, and then one batch at a time.

    :param steps: maps that are applied here.
    :param map_index: of the instance that asks.
    """

    def __init__(self, store: StreamStore, steps: Steps = (), map_index: int = 0) -> None:
        self._store = store
        self._steps = steps
        self._map_index = map_index
        self._batch = CommittedBatch(1, [])

    @cached_property
    def _log(self) -> CommitLog:
        return read_log(self._store)

    def __len__(self) -> int:
        return self._store.ref.heads + self._log.items

    def at(self, index: int) -> Any:
        if self._map_index >= len(self):
            # Airflow counts modulo the length (airflow/sdk/definitions/_internal/expandinput.py), which
            # would give the item of another one to an instance that a shorter stream has no item for.
            index = self._map_index
        number = index + 1 - self._store.ref.heads
        if not self._batch.first <= number < self._batch.end:
            self._batch = self._store.read_batch(self._log, number)
        return shape_one(decode_item(self._batch.since(number)[0]), self._steps)

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(self._store.ref.heads, len(self)))
