"""A stream's records: XComs of the unmapped task, with map index -1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.comms import is_map_length_refusal
from deferred_expand.airflow_internals.sdk import BaseXCom, XCom
from deferred_expand.committing.codec import decode_item
from deferred_expand.exceptions import ItemNotFound, MapLengthExceeded
from deferred_expand.streams.commit_log import (
    Commit,
    CommitLog,
    IndexPage,
    index_page,
    locate,
    span_of,
)

if TYPE_CHECKING:
    from deferred_expand.streams.events import Announcement
    from deferred_expand.streams.ref import StreamRef

LOG_KEY = "deferred_expand.log"
ANNOUNCEMENT_KEY = "deferred_expand.announcement"


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

    def read_log(self) -> CommitLog | None:
        data = BaseXCom.get_one(key=LOG_KEY, **self._where)
        return None if data is None else CommitLog.from_json(data)

    def write(self, commit: Commit, *, mapped_length: int | None = None) -> None:
        """
        Commit.

        Log and mapped length are one request, and one transaction in Airflow's API server
        (execution_api/routes/xcoms.py, ``set_xcom``).

        :param mapped_length: how many instances the mapped task has, the stream head included;
            ``None`` leaves it as it is.
        :raises MapLengthExceeded: nothing is committed then.
        """
        for span, page in commit.full_pages.items():
            value = [list(entry) for entry in page]
            BaseXCom.set(key=index_key(span), value=value, **self._where)
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

    def announce(self, announcement: Announcement) -> None:
        """
        Tell the expander what is staged.

        Kept under the instance that waits, so that it is found by its trigger, and gone when that
        starts anew.
        """
        task_id, map_index = self.ref.walker
        where = {**self._where, "task_id": task_id, "map_index": map_index}
        BaseXCom.set(key=ANNOUNCEMENT_KEY, value=announcement.to_json(), **where)

    def write_batch(self, name: str, items: list[str]) -> None:
        XCom.set(key=_batch_key(name), value=items, **self._where)

    def read_item(self, log: CommitLog, number: int) -> Any:
        """
        One committed item, counted from 1: one read of its batch, and one of the index if it is old.

        :raises ItemNotFound: the stream has no such item.
        :raises AirflowSkipException: a function that shapes the stream has skipped it.
        """
        return decode_item(self.read_texts(log, number)[0])

    def read_texts(self, log: CommitLog, number: int) -> list[str]:
        """The same item as it is written down, and those after it in its batch."""
        batch: list[str] | None = None
        offset = 0
        if 1 <= number <= log.items:
            page = log.tail if span_of(number) == log.tail_span else self._read_index(number)
            if page:
                name, offset = locate(page, number)
                batch = XCom.get_one(key=_batch_key(name), **self._where)
        if batch is None:
            raise ItemNotFound(
                f"{self.ref} holds {log.items} item(s) and not (or no longer) item "
                f"{number}: it was opened anew since. Clear the mapped task "
                f"{self.ref.mapped_task_id!r} as a whole"
            )
        return batch[offset:]

    def read_result(self, number: int) -> Any:
        """What the instance of an item has returned; ``None``: nothing, or not yet."""
        where = {**self._where, "task_id": self.ref.instances_of, "map_index": number}
        return XCom.get_one(key="return_value", **where)

    def forget_results(self, first: int, last: int) -> None:
        """Delete what the instances of these items, the last one included, have returned."""
        for number in range(first, last + 1):
            where = {**self._where, "task_id": self.ref.instances_of, "map_index": number}
            if BaseXCom.get_one(key="return_value", **where) is not None:
                XCom.delete(key="return_value", **where)

    def _read_index(self, number: int) -> IndexPage:
        data = BaseXCom.get_one(key=index_key(span_of(number)), **self._where)
        return index_page(data or [])


def index_key(span: int) -> str:
    return f"deferred_expand.index.{span}"


def _batch_key(name: str) -> str:
    return f"deferred_expand.batch.{name}"
