"""The expander's thread and a database that fails; what it reports."""

from __future__ import annotations

import logging
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING

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
from deferred_expand.plugin.commit import Committed
from deferred_expand.plugin.expander import Expander
from deferred_expand.plugin.telemetry import report_commit
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import Announcement, BatchEvent
from deferred_expand.streams.page import START
from deferred_expand.testing.local_airflow import wait_until

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
