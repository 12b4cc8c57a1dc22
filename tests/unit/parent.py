"""A stream that is walked elsewhere, for those that follow or read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferred_expand.committing.codec import encode_item
from deferred_expand.committing.store import StreamStore
from deferred_expand.streams.commit_index import batch_name
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import BatchEvent
from deferred_expand.streams.page import START, SkippedItem
from deferred_expand.streams.ref import StreamRef
from tests.memory_airflow import DAG_ID, RUN_ID

if TYPE_CHECKING:
    from tests.memory_airflow import MemoryAirflow

USERS, INSERT = "users", "insert"
OPENER, HEAD = (USERS, -1), (INSERT, 0)


class Parent:
    """A stream that is walked elsewhere."""

    def __init__(self, airflow: MemoryAirflow, mapped_task_id: str | None = INSERT) -> None:
        self.airflow = airflow
        self.ref = StreamRef(DAG_ID, RUN_ID, USERS, mapped_task_id)
        self.store = StreamStore(self.ref)
        self.states = airflow.tables.instances
        self.states[OPENER] = "success"
        self.states[HEAD] = "deferred"

    def open(self) -> None:
        self.store.write_log(CommitLog("s"))

    def commit(self, *items: int | SkippedItem, ended: bool = False) -> None:
        log = self.store.read_log()
        assert log is not None
        counts = (len(items),) if items else ()
        if items:
            self.store.write_batch(batch_name(log.batches, "w"), [encode_item(item, 0) for item in items])
        plan = plan_commit(log, BatchEvent("s", "w", log.batches, counts, START, ended=ended), 1)
        assert plan is not None
        self.store.write(plan)
