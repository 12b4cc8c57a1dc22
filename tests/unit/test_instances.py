"""The expander's task instances are those that Airflow makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow._shared.observability import traces
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.plugins_manager import get_priority_weight_strategy_plugins
from airflow.policies import hookimpl
from airflow.task.priority_strategy import PriorityWeightStrategy
from airflow.utils.session import create_session
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import delete, update

from deferred_expand.airflow_internals import instances
from deferred_expand.airflow_internals.metadata import StreamRecords, dag_cache
from tests.metadata_database import INSERT, TRIGGERER, OpenStream

if TYPE_CHECKING:
    from collections.abc import Iterator

ITEMS = 7


class ByIndex(PriorityWeightStrategy):
    def get_weight(self, ti: TaskInstance) -> int:
        return 1000 + int(ti.map_index)


class Policy:
    """A deployment's ``task_instance_mutation_hook``."""

    @hookimpl
    def task_instance_mutation_hook(self, task_instance: TaskInstance) -> None:
        task_instance.pool_slots = 1 + task_instance.map_index
        task_instance.queue = f"queue {task_instance.map_index}"
        task_instance.executor_config = {"index": task_instance.map_index}


@pytest.fixture(autouse=True)
def _spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are on: without, all instances have the run's own carrier."""
    monkeypatch.setattr(traces, "tracer", TracerProvider().get_tracer("test"))


@pytest.fixture
def _policy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    manager, policy = settings.get_policy_plugin_manager(), Policy()
    manager.register(policy)
    monkeypatch.setattr(settings.task_instance_mutation_hook, "is_noop", False)
    yield
    manager.unregister(policy)


def made_by_airflow(stream: OpenStream) -> list[dict[str, Any]]:
    with create_session() as session:
        session.execute(update(TaskMap).where(TaskMap.dag_id == stream.dag_id).values(length=1 + ITEMS))
        dag = dag_cache().get_dag_for_run(stream.run(session), session)
        assert dag is not None
        TaskMap.expand_mapped_task(dag.get_task(INSERT), stream.run(session).run_id, session=session)
    made = stream.rows()
    with create_session() as session:
        items = (TaskInstance.dag_id == stream.dag_id, TaskInstance.map_index > 0)
        session.execute(delete(TaskInstance).where(*items))
    return made


def make(stream: OpenStream, count: int) -> None:
    with create_session(scoped=False) as session:
        records = StreamRecords(session, stream.head(session), dag_cache(), lambda: None)
        run = records.lock(TRIGGERER)
        assert run is not None
        assert records.create_instances(run, 1, count) == count


def check(dag_id: str, **mapped: Any) -> list[dict[str, Any]]:
    """Compare all columns of what Airflow and the expander make for one task and run."""
    stream = OpenStream.begin(dag_id, **mapped)
    stream.announce("board", 1)
    airflows = made_by_airflow(stream)
    make(stream, ITEMS)
    ours = stream.rows()
    assert len(ours) == len(airflows) == ITEMS
    for expected, found in zip(airflows, ours, strict=True):
        assert expected.keys() == found.keys()
        different = {name for name in expected if expected[name] != found[name]}
        assert different == {"id", "updated_at", "context_carrier"}
        assert found["id"].version == expected["id"].version == 7
        assert trace_id(found) == trace_id(expected)
    for name in ("id", "map_index"):
        assert [row[name] for row in ours] == sorted({row[name] for row in ours}), "in order"
    assert len({row["context_carrier"]["traceparent"] for row in ours}) == ITEMS, "a span of its own"
    return ours


def trace_id(row: dict[str, Any]) -> str:
    return str(row["context_carrier"]["traceparent"].split("-")[1])


ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "pool": "some pool",
        "pool_slots": 3,
        "queue": "some queue",
        "priority_weight": 5,
        "executor_config": {"pod": [1, {"two": None}]},
        "retries": 4,
        "run_as_user": "someone",
        "task_display_name": "Some name",
    },
    "upstream": {"weight_rule": "upstream", "priority_weight": 7},
    "absolute": {"weight_rule": "absolute", "priority_weight": 7},
}


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_they_are_what_airflow_makes(arguments: str) -> None:
    check(arguments, **ARGUMENTS[arguments])


@pytest.mark.usefixtures("database", "_policy")
def test_a_policy_is_asked_about_each() -> None:
    rows = check("with_policy", executor_config={"overridden": True})
    assert [row["pool_slots"] for row in rows] == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.usefixtures("database")
def test_a_weight_rule_of_a_plugin_is_asked_about_each(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{ByIndex.__module__}.{ByIndex.__qualname__}"
    monkeypatch.setitem(get_priority_weight_strategy_plugins(), name, ByIndex)
    rows = check("with_weight_rule", weight_rule=name)
    assert [row["priority_weight"] for row in rows] == [1001, 1002, 1003, 1004, 1005, 1006, 1007]


@pytest.mark.usefixtures("database")
def test_only_missing_ones_are_made() -> None:
    stream = OpenStream.begin("missing")
    stream.announce("board", 1)
    make(stream, 2)
    first = stream.rows()
    with create_session(scoped=False) as session:
        records = StreamRecords(session, stream.head(session), dag_cache(), lambda: None)
        run = records.lock(TRIGGERER)
        assert run is not None
        assert records.create_instances(run, 1, 2) == 0
        assert records.create_instances(run, 1, 3) == 1
    assert stream.rows()[:2] == first
    assert [row["map_index"] for row in stream.rows()] == [1, 2, 3]


def test_many_are_made_of_one(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless each may be another: objects made one by one are what costs, 5 to 14 times as much."""
    made: list[bool] = []
    hook: Any = settings.task_instance_mutation_hook
    make_one = instances._make_instance

    def count(*arguments: Any) -> Any:
        made.append(hook.is_noop)
        return make_one(*arguments)

    monkeypatch.setattr(instances, "_make_instance", count)
    for is_noop in (True, False):
        stream = OpenStream.begin(f"many_{is_noop}")
        stream.announce("board", 1)
        with monkeypatch.context() as patch:
            patch.setattr(hook, "is_noop", is_noop)
            make(stream, 600)
    assert made.count(True) == -(-600 // instances.IN_BULK)
    assert made.count(False) == 600
