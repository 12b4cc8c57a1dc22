"""The stream head, and the unmapped task, on a worker: what they wait for, and what they commit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import time_machine
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, TaskDeferred
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetTICount
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from deferred_expand import DeferredExpandOperator
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import SourceFailed, SourceTimedOut, StreamError, TooManyItemsFailed
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import BatchEvent, Failure
from deferred_expand.streams.page import START
from deferred_expand.triggers import failing_fast
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.failing_fast import watch_items
from deferred_expand.workers.head import StreamHeadOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator
from tests.memory_airflow import RUN_ID, MemoryAirflow

if TYPE_CHECKING:
    from deferred_expand.definition import StreamDefinition


def make_stream() -> DeferredExpandOperator:
    return DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 1})


def test_it_waits_for_the_unmapped_task_that_was_cleared_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    with DAG("dag", schedule=None):
        definition = replace(make_stream().definition, mapped_task_id="insert")
        head = StreamHeadOperator(task_id="head", definition=definition, source_kwargs={"count": 1})
    StreamStore(definition.ref(RUN_ID)).write_log(CommitLog("the new one"))
    for state in ("running", "deferred", None):
        airflow.tables.instances["users", -1] = state
        with pytest.raises(AirflowRescheduleException):
            head.execute(airflow.context(map_index=0))
    airflow.tables.instances["users", -1] = "success"
    with pytest.raises(TaskDeferred):
        head.execute(airflow.context(map_index=0))


def test_what_the_expander_has_committed_is_no_failure_of_a_stream_that_walks_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    with DAG("dag", schedule=None):
        stream = make_stream()
    store = StreamStore(stream.definition.ref(RUN_ID))
    store.write_log(CommitLog("s", batches=2, items=5, writer="w", ended=True))
    late = BatchEvent("s", "w", 0, (3, 2), START, ended=True)
    assert len(stream.commit(airflow.context(), late.to_json(), until=None)) == 6
    with pytest.raises(StreamError, match="has opened the stream anew"):
        stream.commit(airflow.context(), BatchEvent("older", "w", 0, (3,), START).to_json(), until=None)


NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(("delay", "seconds"), [("30", 30), ("10", 10), ("0", 6)])
def test_it_waits_until_the_last_worker_is_reported(
    monkeypatch: pytest.MonkeyPatch, delay: str, seconds: int
) -> None:
    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__REQUEUE_DELAY", delay)
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "5")
    with DAG("dag", schedule=None):
        head = StreamHeadOperator(task_id="head", definition=make_stream().definition, source_kwargs={})
    with time_machine.travel(NOON, tick=False), pytest.raises(AirflowRescheduleException) as raised:
        head._requeue()
    assert raised.value.reschedule_date == NOON + timedelta(seconds=seconds)


def test_a_source_that_took_too_long_fails_the_head_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    with DAG("dag", schedule=None):
        definition = replace(make_stream().definition, mapped_task_id="insert")
        head = StreamHeadOperator(task_id="head", definition=definition, source_kwargs={"count": 1})
    store = StreamStore(definition.ref(RUN_ID))
    store.write_log(CommitLog("s", batches=1, items=3, writer="w"))
    airflow.tables.instances |= {("users", -1): "success", **{("insert", n): None for n in range(4)}}
    failure = Failure.of(SourceTimedOut("source of task 'users' in DAG 'dag' was waited for longer than"))
    event = BatchEvent("s", "w", 1, (), START, failure=failure)
    with pytest.raises(SourceFailed, match="'users' in DAG 'dag' was waited for.* map index 0 to go on"):
        head.commit(airflow.context(map_index=0), event.to_json())
    with pytest.raises(TaskDeferred):  # its next try
        head.execute(airflow.context(map_index=0, try_number=2))


def test_the_label_tells_since_when_nothing_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    with DAG("dag", schedule=None):
        stream = make_stream()
        head = StreamHeadOperator(
            task_id="head", definition=replace(stream.definition, mapped_task_id="insert"), source_kwargs={}
        )
        EchoOperator.partial(task_id="insert").expand(value=stream.output)
    airflow.tables.instances["users", -1] = "success"
    with time_machine.travel(NOON, tick=False):
        stream.execute(airflow.context(map_index=-1))
    context = airflow.context(map_index=0)
    with time_machine.travel(NOON + timedelta(minutes=5), tick=False), pytest.raises(TaskDeferred):
        head.execute(context)
    opened = "stream open: 0 items in 0 batches, nothing since 2026-01-01 12:00 UTC"
    assert context["ti"].rendered_map_index == opened
    log = StreamStore(stream.definition.ref(RUN_ID)).read_log()
    assert log is not None
    event = BatchEvent(log.stream, "w", 0, (3,), START, at=int(NOON.timestamp()) + 120)
    with (
        time_machine.travel(NOON + timedelta(minutes=9), tick=False),
        pytest.raises(AirflowRescheduleException),
    ):
        head.commit(context, event.to_json())
    came = "stream open: 3 items in 1 batch, nothing since 2026-01-01 12:02 UTC"
    assert context["ti"].rendered_map_index == came


@pytest.fixture
def failing_fast_definition() -> StreamDefinition:
    with DAG("dag", schedule=None, fail_fast=True):
        return replace(make_stream().definition, mapped_task_id="insert")


def test_a_failed_item_of_a_dag_that_fails_fast_fails_the_head_once(
    monkeypatch: pytest.MonkeyPatch, failing_fast_definition: StreamDefinition
) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    with DAG("dag", schedule=None):
        make_stream()
        head = StreamHeadOperator(
            task_id="head", definition=failing_fast_definition, source_kwargs={"count": 1}
        )
    StreamStore(failing_fast_definition.ref(RUN_ID)).write_log(CommitLog("s", batches=1, items=3, writer="w"))
    airflow.tables.instances |= {("users", -1): "success", ("insert", 1): "success", ("insert", 2): None}
    with pytest.raises(TaskDeferred):
        head.execute(airflow.context(map_index=0))
    airflow.tables.instances["insert", 2] = "failed"
    with pytest.raises(AirflowFailException, match="'insert' in DAG 'dag'.*fail_fast=True.*map index 0"):
        head.execute(airflow.context(map_index=0))
    for _ in range(2):  # cleared, it goes on, also when it is resumed in the same try
        with pytest.raises(TaskDeferred) as deferred:
            head.execute(airflow.context(map_index=0, try_number=2))
        assert deferred.value.trigger.expansion["failed_before"] == 1
    airflow.tables.instances["insert", 3] = "failed"
    with pytest.raises(AirflowFailException, match=r"1 item\(s\).*fail_fast"):
        head.execute(airflow.context(map_index=0, try_number=2))


@pytest.mark.parametrize(("tolerate", "enough", "too_many"), [(0, 0, 1), (2, 2, 3), ("10%", 2, 3)])
def test_more_failed_items_than_are_tolerated_fail_the_head(
    monkeypatch: pytest.MonkeyPatch, tolerate: int | str, enough: int, too_many: int
) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    with DAG("dag", schedule=None):
        definition = replace(make_stream().definition, mapped_task_id="insert", tolerate=tolerate)
        head = StreamHeadOperator(task_id="head", definition=definition, source_kwargs={"count": 1})
    StreamStore(definition.ref(RUN_ID)).write_log(CommitLog("s", batches=1, items=25, writer="w"))
    airflow.tables.instances |= {("users", -1): "success", **{("insert", n): "success" for n in range(1, 26)}}
    airflow.tables.instances |= {("insert", 24): "up_for_retry", ("insert", 25): "upstream_failed"}
    for failed in (0, enough):
        airflow.tables.instances |= {("insert", n): "failed" for n in range(1, 1 + failed)}
        with pytest.raises(TaskDeferred):
            head.execute(airflow.context(map_index=0))
    airflow.tables.instances |= {("insert", n): "failed" for n in range(1, 1 + too_many)}
    message = rf"{too_many} item\(s\) of task 'insert' in DAG 'dag'.*more than tolerate={tolerate!r} allows"
    with pytest.raises(AirflowFailException, match=message):
        head.execute(airflow.context(map_index=0))


@pytest.mark.asyncio
async def test_items_that_fail_are_seen_while_the_source_is_walked(
    monkeypatch: pytest.MonkeyPatch, failing_fast_definition: StreamDefinition
) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    monkeypatch.setattr(failing_fast, "ITEMS_INTERVAL", 0.01)
    airflow.tables.instances |= {("insert", 1): "failed", ("insert", 2): None}
    expansion = Expansion(failing_fast_definition, RUN_ID, "s", for_head=True, failed_before=1)
    watching = asyncio.create_task(watch_items(expansion, lambda: failing_fast_definition.control))
    airflow.tables.instances["insert", 1] = None  # cleared; it fails again later, which is news
    seen = airflow.requests[GetTICount]
    while airflow.requests[GetTICount] < seen + 2:  # noqa: ASYNC110 - of the thread that asks
        await asyncio.sleep(0.01)
    assert not watching.done()
    airflow.tables.instances["insert", 1] = "failed"
    with pytest.raises(TooManyItemsFailed, match="fail_fast"):
        await watching


def test_the_sources_arguments_are_rendered_as_those_of_the_unmapped_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the head as well, with an instance as the task runner has it."""
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", None, raising=False)
    texts = [
        "{{ params.n }}",
        "{{ params.only_dags }}",
        "{{ ti.task_id }}[{{ ti.map_index }}]",
        "{{ task.task_id }}",
        "{{ macros.ds_add('2026-01-01', 1) }}",
    ]
    with DAG("dag", schedule=None, params={"n": 1, "only_dags": 7}):
        users = DeferredExpandOperator(
            task_id="users", source=sources.give, source_kwargs={"texts": texts}, params={"n": 3}
        )
        echo = EchoOperator.partial(task_id="echo", params={"n": 2}).expand(value=users.output)
    rendered = []
    for task, map_index in ((users, -1), (echo, 0)):
        ti = RuntimeTaskInstance.model_construct(
            id=uuid4(), task=task, task_id=task.task_id, dag_id="dag", run_id="run", map_index=map_index,
            try_number=1, max_tries=1,
        )  # fmt: skip
        context: Any = ti.get_template_context()
        context["dag_run"] = SimpleNamespace(conf={})
        task.render_template_fields(context)
        rendered.append(context["task"].rendered_kwargs["texts"])
        assert (context["ti"].map_index, context["ti"].task_id) == (map_index, task.task_id), "its own stays"
    assert rendered == [["3", "7", "users[-1]", "users", "2026-01-02"]] * 2
