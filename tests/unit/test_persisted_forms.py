"""What is persisted can be read back, also what an earlier release wrote."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from deferred_expand import SourceRetry
from deferred_expand.airflow_internals.sdk import redact
from deferred_expand.definition import ExpandedGroup, StreamDefinition
from deferred_expand.shaping.steps import NamedStep
from deferred_expand.sources.dag_file import DagFile
from deferred_expand.sources.importing import DagPlace, ImportPath
from deferred_expand.sources.sealing import unseal
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import Announcement, BatchEvent, Failure, WalkState
from deferred_expand.streams.page import Position
from deferred_expand.streams.units import OpenWindow, Unit
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.streaming import StreamingExpansionTrigger

GOLDEN = Path(__file__).parent / "golden"

POSITION = Position("a cursor, sealed", 2, OpenWindow(7, 1699999999.5, ("an earlier one, sealed", 1)))
DEFINITION = StreamDefinition(
    dag_id="dag",
    task_id="users",
    source=ImportPath("tests.e2e.sources:numbers"),
    hops_on_worker=False,
    in_dag_file=False,
    resumable=True,
    takes_context=False,
    parents=(("a", "insert_a", None), ("b", None, None), ("c", "g.last", "c.stream")),
    mapped_task_id="insert",
    steps=(NamedStep("map", ImportPath("tests.e2e.sources:times_ten")),),
    item_steps=(NamedStep("map", DagPlace("dag", "users", 1, "<lambda>")),),
    batch_size=100,
    batch_interval=5.0,
    source_retries=2,
    retry=SourceRetry(attempts=5),
    materialize="auto",
    max_pending=50,
    rate_limit=2.5,
    max_items=1000,
    fail_fast=True,
    page_timeout=30.0,
    execution_timeout=600.0,
    tolerate="5%",
    unit=Unit("window", 500, 60.0),
    max_duration=3600.0,
    continue_last_run=True,
    group=ExpandedGroup("g", "users.stream", ("g.first", "g.last"), ("g.last",)),
)
EVENT = BatchEvent(
    "s", "w", 4, (3, 1), POSITION, failure=Failure("broke", "Traceback"), waited=12.5, at=1700000000
)
FORMS: dict[str, Any] = {
    "batch_event": EVENT,
    "announcement": Announcement(
        "board", "users", 1700000000.5, EVENT, "g", WalkState(95, "retry", 1700000002, 1, "broke")
    ),
    "commit_log": CommitLog(
        "s",
        66,
        90,
        POSITION,
        "w",
        (((71, "64.w"), (80, "65.w")), ((1, "0.0"), (33, "0.1"))),
        left=((60, "an overtaken one"),),
        failure=EVENT.failure,
        failed_try=2,
        failed_before=(2, 1),
        waited=(2, 12.5),
        at=1700000000,
        opened=1699999000,
        grown=80,
    ),
    "expansion": Expansion(
        DEFINITION,
        "run",
        "s",
        for_head=True,
        failed_before=1,
        sealed_anew=1700000001.5,
        dag_file=DagFile("dags", "5f1a", "team/users.py"),
        until=300,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_written_as_the_golden_file_and_read_from_it(name: str) -> None:
    written = json.loads((GOLDEN / f"{name}.json").read_text())
    assert FORMS[name].to_json() == written
    assert type(FORMS[name]).from_json(written) == FORMS[name]


@pytest.mark.parametrize("name", ["batch_event", "commit_log", "expansion"])
def test_another_version_is_refused_by_name(name: str) -> None:
    written = {**FORMS[name].to_json(), "version": 99}
    with pytest.raises(ValueError, match=r"reads version \d of a .*, not 99"):
        type(FORMS[name]).from_json(written)


def test_a_trigger_is_made_again_from_what_it_serializes() -> None:
    trigger = StreamingExpansionTrigger(source_kwargs={"a": 1}, expansion=FORMS["expansion"].to_json())
    path, kwargs = trigger.serialize()
    assert path == "deferred_expand.triggers.streaming.StreamingExpansionTrigger"
    again = StreamingExpansionTrigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)


def test_a_sources_arguments_are_sealed() -> None:
    arguments = {"password": "open sesame", "since": datetime(2026, 1, 2, tzinfo=timezone.utc)}
    sealed = StreamingExpansionTrigger(source_kwargs=arguments).serialize()[1]["source_kwargs"]
    assert "sesame" not in sealed
    assert unseal(sealed) == arguments


class TokenTrigger(StreamingExpansionTrigger):
    """A provider's."""

    def __init__(self, *, token: str, expansion: dict[str, Any] | None = None) -> None:
        super().__init__(expansion=expansion)
        self.token = token


@pytest.mark.asyncio
async def test_the_secret_arguments_of_a_providers_trigger_are_masked() -> None:
    trigger = TokenTrigger(token="of a provider's", expansion=FORMS["expansion"].to_json())
    with suppress(Exception):  # there is no Airflow to walk it in
        async for _ in trigger.run():
            break
    assert redact("a log of a provider's") == "a log ***"


def test_a_failure_can_be_kept_by_postgres_whatever_is_in_its_text() -> None:
    failure = Failure.of(ValueError("nul \0, half \ud800, whole \N{GRINNING FACE}"))
    assert failure.message == "nul \\x00, half \\ud800, whole \N{GRINNING FACE}"
    json.dumps(failure.traceback, ensure_ascii=False).encode()
    assert "\\u0000" not in json.dumps(failure.traceback)


def test_a_failure_holds_the_traceback_of_its_cause() -> None:
    def source() -> None:
        raise LookupError("no such page")

    try:
        try:
            source()
        except LookupError as error:
            raise RuntimeError("the source raised") from error
    except RuntimeError as error:
        failure = Failure.of(error)
    assert failure.message == "the source raised"
    assert "LookupError: no such page" in failure.traceback


def test_a_log_tells_people_what_the_stream_is_doing() -> None:
    log = CommitLog("s", batches=1, items=1)
    assert log.describe() == "stream open: 1 item in 1 batch"
    assert replace(log, ended=True, items=3, batches=2).describe() == "stream ended: 3 items in 2 batches"
    assert replace(log, failure=Failure("x", "y")).describe() == "stream failed: 1 item in 1 batch"


def test_the_label_of_an_open_stream_tells_since_when_nothing_has_come() -> None:
    log = CommitLog("s", at=1767269010)
    assert log.label == "stream open: 0 items in 0 batches, nothing since 2026-01-01 12:03 UTC"
    plan = plan_commit(log, BatchEvent("s", "w", 0, (3,), POSITION, at=1767355470), 1)
    assert plan is not None
    assert plan.log.label == "stream open: 3 items in 1 batch, nothing since 2026-01-02 12:04 UTC"
    plan = plan_commit(plan.log, BatchEvent("s", "w", 1, (), POSITION, ended=True), 1)
    assert plan is not None
    assert plan.log.label == "stream ended: 3 items in 1 batch"
    assert plan.log.at == 1767355470, "an end is no item"
