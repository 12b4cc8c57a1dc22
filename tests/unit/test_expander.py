"""The expander's thread and a database that fails; what it reports."""

from __future__ import annotations

import logging
import math
import uuid
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow.models.base import Base
from airflow.utils.session import create_session
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deferred_expand.airflow_internals.heads import Head
from deferred_expand.committing.board import CommitBoard
from deferred_expand.committing.store import StreamStore
from deferred_expand.plugin import controls as controls_module
from deferred_expand.plugin import expander as expander_module
from deferred_expand.plugin.commit import Committed
from deferred_expand.plugin.expander import Expander
from deferred_expand.plugin.telemetry import report_commit
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import Announcement, BatchEvent, Failure
from deferred_expand.streams.page import START
from deferred_expand.streams.ref import StreamRef
from deferred_expand.testing.local_airflow import wait_until
from tests import memory_database
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.memory_database import MemoryDatabase, MemoryRecords

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def empty_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Airflow's settings lead to a database without tables."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/airflow.db")
    settings.configure_vars()
    settings.configure_orm()
    yield
    settings.dispose_orm()


@pytest.mark.usefixtures("empty_database")
def test_a_failing_database_is_logged_once_and_the_board_falls_silent(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    beats: list[bool] = []
    board = CommitBoard()
    monkeypatch.setattr(board, "beat", lambda: beats.append(True))
    expander = Expander(1, board)
    stopping = expander._stopping

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return stopping.is_set()

    monkeypatch.setattr(stopping, "wait", wait)
    with caplog.at_level(logging.ERROR, "deferred_expand"):
        expander.start()
        wait_until("it has tried often", lambda: len(waits) > 20, 30, every=0.01)
        assert not beats
        (record,) = caplog.records
        assert "no such table" in record.getMessage()
        assert record.exc_info
        assert waits[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0], "it rests longer and longer"
        with create_session() as session:
            Base.metadata.create_all(session.get_bind())
        wait_until("it goes on", lambda: bool(beats), 30)
    expander.stop()
    assert not expander._thread.is_alive()


def test_each_committed_batch_has_a_span_in_the_runs_trace() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    before = CommitLog("s", batches=1, items=5, writer="w")
    event = BatchEvent("s", "w", 0, (5, 3, 2), START)
    plan = plan_commit(before, event, 1)
    assert plan is not None
    announcement = Announcement("board", "users", 1_700_000_000.0, event)
    parent = {"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"}
    head = Head(uuid.uuid4(), "dag", "run", "insert", 0, 1, 7, None, datetime.now(tz=timezone.utc))
    report_commit(head, Committed(before, plan.log, announcement, parent), 0.01)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["deferred_expand.batch"] * 2
    assert [(span.attributes or {})["deferred_expand.items"] for span in spans] == [3, 2]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {"0123456789abcdef0123456789abcdef"}
    assert {span.start_time for span in spans} == {1_700_000_000_000_000_000}


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    """With an open stream of three items, announced to ``"here"``, whose head waits for triggerer 1."""
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    monkeypatch.setattr(expander_module, "dag_cache", lambda: None)
    monkeypatch.setattr(expander_module, "create_session", MemoryDatabase(airflow).create_session)
    monkeypatch.setattr(expander_module, "StreamRecords", MemoryRecords)
    monkeypatch.setattr(expander_module, "missing_places", lambda *_: {})
    for name in ("announced_heads", "heads_with_removed_items", "states_of"):
        monkeypatch.setattr(expander_module, name, partial(getattr(memory_database, name), "insert"))
    monkeypatch.setattr(controls_module, "written_by_people", memory_database.written_by_people)
    tables = airflow.tables
    tables.instances["insert", 0], tables.head.trigger_id, tables.triggers[7] = "deferred", 7, 1
    return airflow


AT = 1767269010


def open_stream(expander: Expander, board: CommitBoard, *, ended: bool) -> StreamStore:
    store = StreamStore(StreamRef(DAG_ID, RUN_ID, "users", "insert"))
    store.write_log(CommitLog("s"), mapped_length=1)
    event = BatchEvent("s", "w", 0, (3,), START, ended=ended, at=AT)
    store.announce(Announcement(board.id, "users", 0.0, event), store.ref.walker)
    expander._look()
    return store


def test_what_is_committed_is_not_looked_at_again(
    airflow: MemoryAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, transactions = CommitBoard(), 0
    expander = Expander(1, board)
    open_stream(expander, board, ended=False)
    create: Any = vars(expander_module)["create_session"]

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return create(*args, **kwargs)

    monkeypatch.setattr(expander_module, "create_session", count)
    monkeypatch.setattr(expander, "_places_at", math.inf)
    for _ in range(5):
        expander._look()
    assert transactions == 5, "one each, in which it is looked for news"


def test_the_end_is_tried_again_until_a_pass_of_the_scheduler_is_over(airflow: MemoryAirflow) -> None:
    board = CommitBoard()
    expander = Expander(1, board)
    store = open_stream(expander, board, ended=True)
    for _ in range(3):  # nothing new is announced, and no pass is over
        expander._look()
        log = store.read_log()
        assert log is not None
        assert (log.items, log.ended) == (3, False)
    airflow.tables.last_scheduling_decision += timedelta(seconds=1)
    expander._look()
    log = store.read_log()
    assert log is not None
    assert log.ended


def test_removed_items_come_back_though_nothing_new_is_announced(airflow: MemoryAirflow) -> None:
    board = CommitBoard()
    expander = Expander(1, board)
    open_stream(expander, board, ended=False)
    airflow.tables.instances["insert", 2] = "removed"
    expander._look()
    assert airflow.tables.instances["insert", 2] is None


@pytest.mark.parametrize(
    ("log", "state"),
    [
        (CommitLog("s", 1, 3, writer="w"), "failed"),
        (CommitLog("s", 1, 3, writer="w", ended=True), "skipped"),
        (CommitLog("s", failure=Failure("nothing today", "", "skip")), "skipped"),
    ],
)
def test_a_head_that_airflow_skips_while_its_stream_is_open_has_failed(
    airflow: MemoryAirflow, log: CommitLog, state: str
) -> None:
    """Or a cleared run would end well without the items that are missing."""
    board = CommitBoard()
    expander = Expander(1, board)
    store = open_stream(expander, board, ended=False)
    tables = airflow.tables
    tables.instances["insert", 0] = "scheduled"  # a worker is asked
    expander._look()
    store.write_log(log)
    tables.instances["insert", 0] = "skipped"
    for _ in range(2):
        expander._look()
        assert tables.instances["insert", 0] == state
    assert not expander._heads


def test_what_items_miss_to_run_is_on_the_label_as_long_as_they_do(
    airflow: MemoryAirflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may come and go while nothing is committed."""
    monkeypatch.setattr(expander_module, "PLACES_INTERVAL", -1.0)
    missing: dict[Any, str] = {}
    monkeypatch.setattr(expander_module, "missing_places", lambda *_: missing)
    board = CommitBoard()
    expander = Expander(1, board)
    head = airflow.tables.head
    open_stream(expander, board, ended=False)
    label = "stream open: 3 items in 1 batch, nothing since 2026-01-01 12:03 UTC"
    assert head.label == label
    missing[head.id] = "no slot in pool 'p'"
    for _ in range(2):
        expander._look()
        assert head.label == f"{label}; no item can run: no slot in pool 'p'"
    assert caplog.text.count("No item of task 'insert' of DAG 'dag', run 'run' can run: no slot") == 1
    missing.clear()
    expander._look()
    assert head.label == label
