"""A stream that a plain task reads."""

from __future__ import annotations

import time
from bisect import bisect_right
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from deferred_expand import settings
from deferred_expand.airflow_internals.comms import is_in_process
from deferred_expand.airflow_internals.sdk import AirflowRescheduleException
from deferred_expand.committing.codec import decode_or_skipped
from deferred_expand.committing.status import FIRST_LOOK, StreamStatus
from deferred_expand.exceptions import StreamError
from deferred_expand.shaping.pipeline import shape_batch
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.page import SkippedItem
from deferred_expand.walking.pauses import pauses
from deferred_expand.workers.lazy import LazySequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.committing.store import StreamStore
    from deferred_expand.shaping.steps import Steps

MOST_PLACES = 1000  # that a reader remembers


def come_back_unless_over(store: StreamStore) -> None:
    """
    In ``dag.test()``, which runs one task after the other, let the one go on that walks the stream.

    :raises AirflowRescheduleException: it has not come to its end.
    """
    if is_in_process() and not StreamStatus.read(store).is_over:
        raise AirflowRescheduleException(datetime.now(tz=timezone.utc))


class _Shown(NamedTuple):
    """Items as the reader shows them, in the place where a batch was; ``first`` is an index."""

    first: int
    items: list[Any]

    @property
    def end(self) -> int:
        return self.first + len(self.items)


class _Place(NamedTuple):
    """Where a batch begins: the index of what it shows, its first item's number, and its own."""

    first: int
    number: int
    batch: int


class StreamReader(LazySequence[Any]):
    """
    The items of a stream, which may still be open: can be iterated again and again.

    Read batch by batch, each once while one goes forward. Where the stream has not come yet, it waits,
    for at most ``[deferred_expand] read_timeout`` seconds. What asks for an end (``len()``, an index
    from behind) waits for that. Where items are dropped or added on their way, the number of an item is
    not its index: then it remembers where some batches begin, and goes on from there.

    :param steps: what becomes of each item, done here.
    :param drops: whether the stream may hold items that are not shown.
    """

    def __init__(self, store: StreamStore, steps: Steps, *, drops: bool) -> None:
        self._store = store
        self._steps = steps
        self._exact = not steps and not drops
        self._log = CommitLog("")
        self._is_over = False
        self._shown = _Shown(0, [])
        self._length: int | None = None
        self._places = [_Place(0, 1, 0)]
        self._stride = 1  # batches between two places
        come_back_unless_over(store)

    def __iter__(self) -> Iterator[Any]:
        for shown in self._batches(self._places[0]):
            yield from shown.items

    def __len__(self) -> int:
        if self._exact:
            while self._has(self._log.items + 1):
                pass
            return self._log.items
        if self._length is None:
            self._length = sum(len(shown.items) for shown in self._batches(self._places[0]))
        return self._length

    def at(self, index: int) -> Any:
        if index < 0:
            index += len(self)
        if index < 0 or not self._show(index):
            raise IndexError(index)
        return self._shown.items[index - self._shown.first]

    def _show(self, index: int) -> bool:
        """Have the batch in hand that has it; ``False``: none has."""
        if self._shown.first <= index < self._shown.end:
            return True
        for shown in self._batches(self._place_before(index)):
            self._shown = shown
            if index < shown.end:
                return True
        return False

    def _batches(self, place: _Place) -> Iterator[_Shown]:
        while self._has(place.number):
            batch = self._store.read_batch(self._log, place.number)
            items = shape_batch(map(decode_or_skipped, batch.texts), self._steps)
            shown = _Shown(
                place.first - (place.number - batch.first),
                [item for item in items if not isinstance(item, SkippedItem)],
            )
            place = _Place(shown.end, batch.end, place.batch + 1)
            self._remember(place)
            yield shown

    def _place_before(self, index: int) -> _Place:
        if self._exact:
            return _Place(index, index + 1, 0)
        return self._places[bisect_right(self._places, index, key=lambda place: place.first) - 1]

    def _remember(self, place: _Place) -> None:
        if not self._exact and place.batch == len(self._places) * self._stride:
            self._places.append(place)
            if len(self._places) > MOST_PLACES:
                del self._places[1::2]
                self._stride *= 2

    def _has(self, number: int) -> bool:
        """Wait for the item; ``False``: the stream has ended before it."""
        if self._log.items < number and not self._is_over:
            self._log = self._wait_for(number)
            self._is_over = self._log.ended or self._log.items < number
        return self._log.items >= number

    def _wait_for(self, number: int) -> CommitLog:
        """The log once it has the item, or the stream has ended."""
        gives_up_at = time.monotonic() + settings.read_timeout()
        waits = pauses(FIRST_LOOK)
        while True:
            status = StreamStatus.read(self._store)
            if status.log is not None and (status.log.items >= number or status.log.ended):
                return status.log
            if status.is_over:
                return self._ended_early(status)
            if time.monotonic() > gives_up_at:
                raise StreamError(
                    f"{self._store.ref} has not given item {number} within [deferred_expand] read_timeout"
                )
            time.sleep(next(waits))

    def _ended_early(self, status: StreamStatus) -> CommitLog:
        if status.log is None or status.walker != "success":
            raise StreamError(
                f"{self._store.ref} has ended as {status.walker}, after "
                f"{status.log.items if status.log else 0} item(s); clear what walks it, and this task"
            )
        return status.log
