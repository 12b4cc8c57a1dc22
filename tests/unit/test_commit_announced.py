"""What an expander commits of what is announced, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import MapLengthExceeded
from deferred_expand.plugin.commit import Committed, commit_announced, restore_removed
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import Announcement, BatchEvent
from deferred_expand.streams.page import START
from deferred_expand.streams.ref import StreamRef
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.memory_database import MemoryDatabase, MemoryRecords, announced_heads

if TYPE_CHECKING:
    from typing import Any

HERE = 1
STORE = StreamStore(StreamRef(DAG_ID, RUN_ID, "users", "insert"))


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    """With an open stream, whose head is deferred on a trigger that runs here."""
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    airflow.tables.instances["insert", 0] = "deferred"
    airflow.tables.head.trigger_id = 7
    airflow.tables.triggers[7] = HERE
    STORE.write_log(CommitLog("s"), mapped_length=1)
    return airflow


def commit(airflow: MemoryAirflow, *, may_end: bool) -> Committed | None:
    """What the expander named ``"here"`` does."""
    with MemoryDatabase(airflow).create_session() as session:
        (head,) = announced_heads("insert", session, HERE, "deferred_expand.announcement")
        records: Any = MemoryRecords(session, head, None, lambda: None)
        run = records.lock(HERE)
        return commit_announced(records, run, head, "here", may_end=may_end)


def announce(expander: str, *counts: int, ended: bool = False) -> None:
    event = BatchEvent("s", "w", 0, counts, START, ended=ended)
    STORE.announce(Announcement(expander, "users", 0.0, event), STORE.ref.walker)


def test_what_is_announced_to_another_triggerers_expander_is_left_alone(airflow: MemoryAirflow) -> None:
    announce("elsewhere", 3)
    assert commit(airflow, may_end=True) is None
    assert STORE.read_log() == CommitLog("s")
    announce("here", 3)
    committed = commit(airflow, may_end=True)
    assert committed is not None
    assert committed.grew
    assert [index for _, index in airflow.tables.instances] == [0, 1, 2, 3]


@pytest.mark.parametrize("may_end", [False, True])
def test_a_stream_that_grows_does_not_end_in_the_same_transaction(
    airflow: MemoryAirflow, may_end: bool
) -> None:
    announce("here", 3, 2, ended=True)
    committed = commit(airflow, may_end=may_end)
    assert committed is not None
    assert (committed.after.items, committed.after.ended, committed.holds_back_the_end) == (5, False, True)


def test_a_stream_ends_when_the_schedulers_pass_over_it_is_over(airflow: MemoryAirflow) -> None:
    announce("here", 3, ended=True)
    commit(airflow, may_end=True)
    held_back = commit(airflow, may_end=False)
    assert held_back is not None
    assert held_back.holds_back_the_end
    ended = commit(airflow, may_end=True)
    assert ended is not None
    assert ended.after.ended


def test_a_stream_may_have_as_many_instances_as_airflow_allows_and_no_more(
    airflow: MemoryAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "4")  # the head counts, too
    announce("here", 3)
    commit(airflow, may_end=True)
    assert len(airflow.tables.instances) == 4
    announce("here", 3, 1)
    with pytest.raises(MapLengthExceeded):
        commit(airflow, may_end=True)


def test_who_announces_what_another_walk_has_given_is_noted(airflow: MemoryAirflow) -> None:
    """So that what it has staged is deleted at the end."""
    announce("here", 3)
    commit(airflow, may_end=True)
    event = BatchEvent("s", "late", 0, (2, 2), START)
    STORE.announce(Announcement("here", "users", 0.0, event), STORE.ref.walker)
    assert commit(airflow, may_end=True) is None
    log = STORE.read_log()
    assert log is not None
    assert (log.items, log.left) == (3, ((0, "late"),))


def test_items_that_became_removed_although_committed_come_back(airflow: MemoryAirflow) -> None:
    announce("here", 3)
    commit(airflow, may_end=True)
    tables = airflow.tables
    tables.lengths["users"] = 1
    tables.instances |= {("insert", 1): "success", ("insert", 2): "removed", ("insert", 3): "removed"}
    tables.instances["insert", 4] = "removed"  # of an earlier, longer stream
    with MemoryDatabase(airflow).create_session() as session:
        (head,) = announced_heads("insert", session, HERE, "deferred_expand.announcement")
        records: Any = MemoryRecords(session, head, None, lambda: None)
        assert restore_removed(records, records.lock(HERE), head) == 2
    assert [tables.instances["insert", index] for index in (1, 2, 3, 4)] == ["success", None, None, "removed"]
    assert tables.lengths == {"users": 4}, "or the scheduler would remove them again"
