"""A stream that a plain task reads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

from deferred_expand import settings
from deferred_expand.airflow_internals.comms import is_in_process
from deferred_expand.airflow_internals.sdk import AirflowRescheduleException
from deferred_expand.committing.codec import decode_or_skipped
from deferred_expand.committing.status import FIRST_LOOK, StreamStatus
from deferred_expand.exceptions import StreamError
from deferred_expand.shaping.pipeline import shape_batch
from deferred_expand.streams.page import SkippedItem
from deferred_expand.walking.pauses import pauses

if TYPE_CHECKING:
    from deferred_expand.committing.store import StreamStore
    from deferred_expand.shaping.steps import Steps
    from deferred_expand.streams.commit_log import CommitLog


def come_back_unless_over(store: StreamStore) -> None:
    """
    In ``dag.test()``, which runs one task after the other, let the one go on that walks the stream.

    :raises AirflowRescheduleException: it has not come to its end.
    """
    if is_in_process() and not StreamStatus.read(store).is_over:
        raise AirflowRescheduleException(datetime.now(tz=timezone.utc))


class StreamReader(Sequence[Any]):
    """
    The items of a stream, which may still be open: can be iterated again and again.

    Read batch by batch. Where the stream has not come yet, it waits, for at most ``[deferred_expand]
    read_timeout`` seconds. What asks for an end (``len()``, an index from behind) waits for that.

    :param steps: what becomes of each item, done here.
    """

    def __init__(self, store: StreamStore, steps: Steps) -> None:
        self._store = store
        self._steps = steps
        come_back_unless_over(store)

    def __iter__(self) -> Iterator[Any]:
        number = 1
        while (log := self._wait_for(number)).items >= number:
            texts = self._store.read_texts(log, number)
            number += len(texts)
            for item in shape_batch(map(decode_or_skipped, texts), self._steps):
                if not isinstance(item, SkippedItem):
                    yield item

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        if index < 0:
            index += len(self)
        for item in islice(self, max(0, index), None):
            if index >= 0:
                return item
        raise IndexError(index)

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
