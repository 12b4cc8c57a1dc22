"""A stream's records: XComs of the unmapped task, with map index -1."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import count, islice, product
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.comms import is_map_length_refusal
from deferred_expand.airflow_internals.sdk import BaseXCom, XCom
from deferred_expand.committing.codec import decode_item
from deferred_expand.exceptions import ItemNotFound, MapLengthExceeded
from deferred_expand.streams.commit_index import (
    IndexPage,
    batch_name,
    locate,
    locate_all,
    page_from_json,
    page_to_json,
)
from deferred_expand.streams.commit_log import Commit, CommitLog, first_lost

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from deferred_expand.streams.events import Announcement
    from deferred_expand.streams.ref import StreamRef

logger = logging.getLogger(__name__)

MOST_DELETED = 64  # batches, when a walk or a stream is over; each takes three requests
LOG_KEY = "deferred_expand.log"
STREAM_KEY = "deferred_expand.stream"
ANNOUNCEMENT_KEY = "deferred_expand.announcement"
BATCHES, INDEX = "deferred_expand.batch.", "deferred_expand.index."
"""What the keys of batches and of index pages begin with."""
CHILD_KEY = "deferred_expand.child"
CONTROL_KEY = "deferred_expand.control"
"""Of what people write, through Airflow's API, to have a stream changed while it is walked."""


@dataclass(frozen=True)
class CommittedBatch:
    """
    :param first: number of its first item, counted from 1.
    :param texts: its items as they are written down.
    """

    first: int
    texts: list[str]

    @property
    def end(self) -> int:
        """Number of the first item after it."""
        return self.first + len(self.texts)

    def since(self, number: int) -> list[str]:
        """The texts of the item with a number, and of those after it."""
        return self.texts[number - self.first :]


class StreamStore:
    """
    Reads and writes the records of one stream. Every call blocks on Airflow's API.

    Batches go through the configured XCom backend. The commit log and the index are small and go
    past it, into the metadata database.
    """

    def __init__(self, ref: StreamRef) -> None:
        self.ref = ref
        self._where: dict[str, Any] = {
            "dag_id": ref.dag_id,
            "run_id": ref.run_id,
            "task_id": ref.task_id,
            "map_index": -1,
        }
        self._pages: dict[str, tuple[str, IndexPage]] = {}  # the last one of each level, with its name

    def read_log(self) -> CommitLog | None:
        data = BaseXCom.get_one(key=LOG_KEY, **self._where)
        return None if data is None else CommitLog.from_json(data)

    def read_control(self) -> Any:
        """What a person has written for this stream, if anything, and whatever it is."""
        return BaseXCom.get_one(key=CONTROL_KEY, **self._where)

    def write(self, commit: Commit, *, mapped_length: int | None = None) -> None:
        """
        Commit.

        Log and mapped length are one request, and one transaction in Airflow's API server
        (execution_api/routes/xcoms.py, ``set_xcom``).

        :param mapped_length: how many instances the mapped task has, the stream head included;
            ``None`` leaves it as it is.
        :raises MapLengthExceeded: nothing is committed then.
        """
        for name, page in commit.pages.items():
            BaseXCom.set(key=index_key(name), value=page_to_json(page), **self._where)
        try:
            self.write_log(commit.log, mapped_length=mapped_length)
        except Exception as error:
            if not is_map_length_refusal(error):
                raise
            raise MapLengthExceeded(
                f"task {self.ref.mapped_task_id!r} of DAG {self.ref.dag_id!r} has reached "
                f"{commit.items_before} item(s) and would have {mapped_length} instances, its stream head "
                "included, which is more than [core] max_map_length allows. What is committed stays. "
                "Either raise the setting on the API servers and triggerers, or let the source give "
                "more per item; then clear the instance with map index 0, and the stream goes on "
                "where it was"
            ) from error

    def write_log(self, log: CommitLog, *, mapped_length: int | None = None) -> None:
        BaseXCom.set(key=LOG_KEY, value=log.to_json(), _mapped_length=mapped_length, **self._where)

    def write_down(self, stream: dict[str, Any]) -> None:
        """What a stream is that heads may go on with, for those who look at streams."""
        BaseXCom.set(key=STREAM_KEY, value=stream, **self._where)

    def announce(self, announcement: Announcement, waiter: tuple[str, int]) -> None:
        """
        Tell the expander what is staged.

        Kept under the instance that waits, so that it is found by its trigger, and gone when that
        starts anew.

        :param waiter: task id and map index of that.
        """
        task_id, map_index = waiter
        where = {**self._where, "task_id": task_id, "map_index": map_index}
        BaseXCom.set(key=ANNOUNCEMENT_KEY, value=announcement.to_json(), **where)

    def write_batch(self, name: str, items: list[str]) -> None:
        XCom.set(key=_batch_key(name), value=items, **self._where)

    def delete_left(self, log: CommitLog) -> None:
        """
        Once a stream is at its end, delete what walks have staged that it has gone on without.

        What is too much, cannot be deleted or is not known is left to ``airflow db clean``.
        """
        self._delete((batch_name(number, writer) for number in count(first)) for first, writer in log.left)

    def delete_lost(self, stream: str, writer: str, first: int, staged: range) -> None:
        """
        The same for what nobody will commit any more of one walk that is over.

        :param first: number of the first batch that it has staged.
        :param staged: numbers of those that it has not seen committed.
        """
        lost = first_lost(self.read_log(), stream, writer, first)
        if lost is not None:
            self._delete([(batch_name(number, writer) for number in staged if number >= lost)])

    def _delete(self, walks: Iterable[Iterator[str]]) -> None:
        """Of each walk, batches as long as there are any."""
        left = MOST_DELETED
        try:
            for names in walks:
                for name in islice(names, left):
                    # A backend may take a batch that is not there for an error.
                    if BaseXCom.get_one(key=_batch_key(name), **self._where) is None:
                        break
                    XCom.delete(key=_batch_key(name), **self._where)
                    left -= 1
        except Exception:
            logger.warning("cannot delete batches of %s that nobody will read", self.ref, exc_info=True)

    def read_item(self, log: CommitLog, number: int) -> Any:
        """
        One committed item, counted from 1.

        :raises AirflowSkipException: a function that shapes the stream has skipped it.
        """
        return decode_item(self.read_batch(log, number).since(number)[0])

    def read_batch(self, log: CommitLog, number: int) -> CommittedBatch:
        """
        The batch with a committed item: one read, and one for each index page that is not in hand.

        :raises ItemNotFound: the stream has no such item.
        """
        texts: list[str] | None = None
        first = 0
        if 1 <= number <= log.items:
            entry = locate(log.index, number, lambda name: self._read_page(log, name))
            if entry is not None:
                first, name = entry
                texts = self.read_texts(name)
        if texts is None:
            raise ItemNotFound(
                f"{self.ref} holds {log.items} item(s) and not (or no longer) item "
                f"{number}: it was opened anew since. Clear the mapped task "
                f"{self.ref.mapped_task_id!r} as a whole"
            )
        return CommittedBatch(first, texts)

    def window(self, log: CommitLog, number: int) -> list[str]:
        """The names of the batches of a committed window, counted from 1; none: it is not there."""
        if not 1 <= number <= log.items:
            return []
        return locate_all(log.index, number, lambda name: self._read_page(log, name)) or []

    def read_texts(self, name: str) -> list[str] | None:
        """The items of a batch as they are written down; ``None``: it is gone."""
        texts: list[str] | None = XCom.get_one(key=_batch_key(name), **self._where)
        return texts

    def read_result(self, number: int) -> Any:
        """What the instance of an item has returned; ``None``: nothing, or not yet."""
        where = {"task_id": self.ref.instances_of, "map_index": self.ref.index_of(number)}
        return XCom.get_one(key="return_value", **{**self._where, **where})

    def forget_results(self, first: int, last: int, task_ids: Collection[str]) -> None:
        """Delete what these tasks have returned for these items, the last one included."""
        for number, task_id in product(range(first, last + 1), task_ids):
            where = {**self._where, "task_id": task_id, "map_index": self.ref.index_of(number)}
            if BaseXCom.get_one(key="return_value", **where) is not None:
                XCom.delete(key="return_value", **where)

    def _read_page(self, log: CommitLog, name: str) -> IndexPage:
        level, in_stream = name.partition(".")[0], f"{name} of {log.stream}"
        if self._pages.get(level, ("",))[0] != in_stream:
            data = BaseXCom.get_one(key=index_key(name), **self._where)
            self._pages[level] = (in_stream, page_from_json(data or []))
        return self._pages[level][1]


def index_key(name: str) -> str:
    return f"{INDEX}{name}"


def _batch_key(name: str) -> str:
    return f"{BATCHES}{name}"
