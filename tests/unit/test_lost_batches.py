"""Batches that nobody will commit are deleted once that is certain, and no other one ever is."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.execution_time.comms import DeleteXCom
from hypothesis import given
from hypothesis import strategies as st

from deferred_expand.airflow_internals.sdk import XCom
from deferred_expand.committing.store import MOST_DELETED, StreamStore
from deferred_expand.streams.commit_index import batch_name
from deferred_expand.streams.commit_log import LEFT_KEPT, CommitLog, first_lost, note_refused, plan_commit
from deferred_expand.streams.events import BatchEvent, Checkpoint
from deferred_expand.streams.page import START
from deferred_expand.streams.ref import StreamRef
from deferred_expand.walking.registry import WalkRegistry
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk, virtual_time

if TYPE_CHECKING:
    from deferred_expand.walking.walk import Walk


def event(writer: str, first: int, batches: int, *, ended: bool = False) -> BatchEvent:
    return BatchEvent("s", writer, first, (1,) * batches, START, ended)


# -- what is certain ---------------------------------------------------------------------------------


@given(st.data())
def test_what_is_lost_is_never_committed(data: st.DataObject) -> None:
    """Walks begin at a checkpoint, stage on, and hand over what they have, in any order."""
    log, names = CommitLog("s"), count()
    walks: dict[str, tuple[int, int]] = {}  # where each began, and how many it has staged
    lost: dict[str, int] = {}
    committed: set[str] = set()
    for _ in range(data.draw(st.integers(0, 40))):
        if not walks or data.draw(st.integers(0, 3)) == 0:
            walks[str(next(names))] = (log.batches, data.draw(st.integers(0, 3)))
        writer = data.draw(st.sampled_from(sorted(walks)))
        began, staged = walks[writer]
        walks[writer] = (began, staged + data.draw(st.integers(0, 2)))
        first = log.batches if log.writer == writer and data.draw(st.booleans()) else began
        sent = event(writer, first, max(0, began + walks[writer][1] - first), ended=data.draw(st.booleans()))
        plan = plan_commit(log, sent, 1)
        if plan is not None:
            numbers = range(log.batches, plan.log.batches)
            assert all(number < lost.get(writer, number + 1) for number in numbers), "it was taken for lost"
            committed |= {batch_name(number, writer) for number in numbers}
            log = plan.log
        else:
            log = note_refused(log, sent) or log
        for number, name in log.left:
            assert lost.setdefault(name, number) == number
        for name, (start, _) in walks.items():
            found = first_lost(log, "s", name, start)
            if found is not None:
                lost.setdefault(name, found)
    for name, number in lost.items():
        gone = (batch_name(n, name) for n in range(number, number + 100))
        assert committed.isdisjoint(gone)


def test_all_is_lost_of_a_stream_that_was_opened_anew() -> None:
    assert first_lost(None, "s", "w", 3) == 3
    assert first_lost(CommitLog("another"), "s", "w", 3) == 3


def test_nothing_is_lost_that_an_event_may_still_commit() -> None:
    plan = plan_commit(CommitLog("s"), event("w", 0, 2), 1)
    assert plan is not None
    assert first_lost(plan.log, "s", "w", 0) is None
    assert first_lost(plan.log, "s", "one that has just begun", 2) is None
    assert first_lost(plan.log, "s", "one that has lost", 1) == 1


def test_no_more_walks_are_noted_than_the_log_can_bear() -> None:
    log = CommitLog("s")
    for number in range(3 * LEFT_KEPT):
        plan = plan_commit(log, event(f"w{number}", number, 1), 1)
        assert plan is not None
        log = plan.log
    assert len(log.left) == LEFT_KEPT
    assert note_refused(log, event("late", 0, 1)) is None
    assert first_lost(log, "s", f"w{LEFT_KEPT + 1}", 0) is None, "it may have committed something"


# -- what is deleted ---------------------------------------------------------------------------------


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    memory = MemoryAirflow()
    memory.install(monkeypatch)
    return memory


def stage(store: StreamStore, writer: str, numbers: range) -> None:
    for number in numbers:
        store.write_batch(batch_name(number, writer), ["item"])


def staged(airflow: MemoryAirflow) -> set[str]:
    prefix = "deferred_expand.batch."
    return {key.removeprefix(prefix) for _, _, key in airflow.tables.xcoms if key.startswith(prefix)}


def test_at_the_end_of_a_stream_it_is_what_the_log_knows_of(airflow: MemoryAirflow) -> None:
    store = StreamStore(StreamRef(DAG_ID, RUN_ID, "users", "insert"))
    stage(store, "old", range(4))
    stage(store, "new", range(2, 5))
    log = CommitLog("s")
    for sent in (event("old", 0, 2), event("new", 2, 3, ended=True)):
        plan = plan_commit(log, sent, 1)
        assert plan is not None
        log = plan.log
    store.delete_left(log)
    assert staged(airflow) == {"0.old", "1.old", "2.new", "3.new", "4.new"}


def test_it_is_a_bounded_number_of_requests(airflow: MemoryAirflow) -> None:
    store = StreamStore(StreamRef(DAG_ID, RUN_ID, "users", "insert"))
    stage(store, "old", range(3 * MOST_DELETED))
    store.delete_left(CommitLog("s", left=((1, "old"),), ended=True))
    assert airflow.requests[DeleteXCom] == MOST_DELETED
    assert "0.old" in staged(airflow)


def test_a_backend_that_cannot_delete_stops_nothing(
    airflow: MemoryAirflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def purge(*_: object) -> None:
        raise ConnectionError("no bucket")

    monkeypatch.setattr(XCom, "purge", purge)
    store = StreamStore(StreamRef(DAG_ID, RUN_ID, "users", "insert"))
    stage(store, "old", range(2))
    store.delete_left(CommitLog("s", left=((0, "old"),), ended=True))
    assert "no bucket" in caplog.text
    assert staged(airflow) == {"0.old", "1.old"}


def test_a_walk_of_a_stream_that_was_opened_anew_leaves_nothing(airflow: MemoryAirflow) -> None:
    store = StreamStore(StreamRef(DAG_ID, RUN_ID, "users", "insert"))
    stage(store, "w", range(3, 6))
    store.write_log(CommitLog("a new one"))
    store.delete_lost("s", "w", 0, range(3, 7))
    assert staged(airflow) == set()


@pytest.mark.asyncio
@virtual_time
async def test_a_walk_that_is_replaced_or_not_wanted_discards_what_it_has_staged() -> None:
    registry, stagers = WalkRegistry(), list[MemoryStager]()

    def open_walk() -> Walk:
        stagers.append(MemoryStager())
        return make_walk(PagedNumbers(pages=1000, delay=1), stagers[-1], Checkpoint("s"))

    async def wanted() -> bool:
        return False

    async with registry.hold("key", 1, Checkpoint("s"), open_walk, wanted, 60) as walk:
        await walk.batches()
    async with registry.hold("key", 1, Checkpoint("another"), open_walk, wanted, 60):
        pass
    assert stagers[0].discarded == [(0, range(len(stagers[0].batches) + 1))]
    await asyncio.sleep(10)
    assert len(registry) == 0
    assert len(stagers[1].discarded) == 1
