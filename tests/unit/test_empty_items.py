"""Items of a mapped ``EmptyOperator`` are what the scheduler makes of them, where it would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from sqlalchemy import delete, select, update

from deferred_expand import DeferredExpandOperator
from deferred_expand.airflow_internals.instances import needs_no_worker
from deferred_expand.airflow_internals.metadata import StreamRecords, dag_cache
from tests.e2e import sources
from tests.e2e.operators import EchoOperator
from tests.metadata_database import INSERT, TRIGGERER, USERS, OpenStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.models.dagrun import DagRun

ITEMS = 5


class StillEmpty(EmptyOperator):
    """An author's, that adds nothing."""


def note(context: Any) -> None:
    """A callback."""


# -- which tasks they are ----------------------------------------------------------------------------

Setting = tuple[type[EmptyOperator], dict[str, Any]]
NEED_NO_WORKER: dict[str, Setting] = {
    "plain": (EmptyOperator, {}),
    "a subclass": (StillEmpty, {}),
    "told of failures": (EmptyOperator, {"on_failure_callback": note, "on_retry_callback": note}),
}
NEED_A_WORKER: dict[str, Setting] = {
    "on_execute_callback": (EmptyOperator, {"on_execute_callback": note}),
    "on_success_callback": (EmptyOperator, {"on_success_callback": [note]}),
    "outlets": (EmptyOperator, {"outlets": [Asset("a")]}),
    "inlets": (EmptyOperator, {"inlets": [Asset("a")]}),
}
SETTINGS = {**NEED_NO_WORKER, **NEED_A_WORKER}


def parsed(dag: DAG) -> Any:
    """The mapped task as the scheduler has it."""
    dag.resolve_template_files()
    dag.resolve_template_files()  # the parser may look twice
    return DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("empty")


def over_stream(dag: DAG, operator: Any, **arguments: Any) -> Any:
    users = DeferredExpandOperator(task_id=USERS, source=sources.words, source_kwargs={"count": 2})
    return operator.partial(task_id="empty", **arguments).expand(doc=users.output)


@pytest.mark.parametrize("setting", SETTINGS)
def test_they_are_those_that_the_scheduler_would_not_schedule(dag: DAG, setting: str) -> None:
    operator, arguments = SETTINGS[setting]
    over_stream(dag, operator, **arguments)
    with DAG("native", schedule=None) as native:
        operator.partial(task_id="empty", **arguments).expand(doc=["a"])
    natively = not TaskInstance.is_task_schedulable(parsed(native))
    assert needs_no_worker(parsed(dag)) == natively == (setting in NEED_NO_WORKER)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_scheduler_runs_the_head_all_the_same(dag: DAG, setting: str) -> None:
    operator, arguments = SETTINGS[setting]
    over_stream(dag, operator, **arguments)
    assert TaskInstance.is_task_schedulable(parsed(dag))


@pytest.mark.parametrize("callback", ["on_execute_callback", "on_success_callback"])
def test_a_callback_that_is_set_later_is_called(dag: DAG, callback: str) -> None:
    setattr(over_stream(dag, EmptyOperator), callback, note)
    assert not needs_no_worker(parsed(dag))


def test_a_callback_of_all_tasks_is_called() -> None:
    with DAG("dag", schedule=None, default_args={"on_success_callback": note}) as dag:
        over_stream(dag, EmptyOperator)
    assert not needs_no_worker(parsed(dag))


def test_other_operators_need_a_worker(dag: DAG) -> None:
    users = DeferredExpandOperator(task_id=USERS, source=sources.words, source_kwargs={"count": 2})
    EchoOperator.partial(task_id="empty").expand(value=users.output)
    assert not needs_no_worker(parsed(dag))


# -- what they become --------------------------------------------------------------------------------


def serve(stream: OpenStream, act: Callable[[StreamRecords, DagRun], Any]) -> Any:
    """What the expander does in one transaction."""
    with create_session(scoped=False) as session:
        records = StreamRecords(session, stream.head(session), dag_cache(), lambda: None)
        run = records.lock(TRIGGERER)
        assert run is not None
        return act(records, run)


def begin(dag_id: str, operator: Any = EmptyOperator, **mapped: Any) -> OpenStream:
    stream = OpenStream.begin(dag_id, operator, **mapped)
    stream.announce("board", 1)
    return stream


def make(stream: OpenStream, count: int = ITEMS) -> list[Any]:
    """:return: the states of the items."""
    serve(stream, lambda records, run: records.create_instances(run, 1, count))
    return [row["state"] for row in stream.rows()]


def set_state(stream: OpenStream, state: str | None, *which: Any) -> None:
    of_dag = (TaskInstance.dag_id == stream.dag_id, *which)
    with create_session() as session:
        session.execute(update(TaskInstance).where(*of_dag).values(state=state))


def made_by_the_scheduler(stream: OpenStream) -> list[dict[str, Any]]:
    """Natively: no callback keeps the scheduler from it."""
    with create_session() as session:
        session.execute(update(TaskMap).where(TaskMap.dag_id == stream.dag_id).values(length=1 + ITEMS))
        run = stream.run(session)
        dag = dag_cache().get_dag_for_run(run, session)
        assert dag is not None
        mapped: Any = dag.get_task(INSERT)
        mapped.partial_kwargs.pop("has_on_execute_callback", None)
        TaskMap.expand_mapped_task(mapped, run.run_id, session=session)
        items = (TaskInstance.dag_id == stream.dag_id, TaskInstance.map_index > 0)
        instances = session.scalars(select(TaskInstance).where(*items)).all()
        for instance in instances:
            instance.task = mapped
        assert run.schedule_tis(instances, session=session) == ITEMS
    made = stream.rows()
    with create_session() as session:
        session.execute(delete(TaskInstance).where(*items))
    return made


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("setting", NEED_NO_WORKER)
def test_they_are_what_the_scheduler_makes(setting: str) -> None:
    operator, arguments = NEED_NO_WORKER[setting]
    stream = begin(f"same_{setting.replace(' ', '_')}", operator, retries=3, **arguments)
    schedulers = made_by_the_scheduler(stream)
    assert make(stream) == ["success"] * ITEMS
    for expected, found in zip(schedulers, stream.rows(), strict=True):
        different = {name for name in expected if expected[name] != found[name]}
        times = {"start_date", "end_date", "updated_at"}
        assert different - {"context_carrier"} == {"id", *times}
        assert all(found[name] >= expected[name] for name in times)
        assert (found["duration"], found["try_number"], found["pid"]) == (0, 1, None)


@pytest.mark.usefixtures("database")
def test_with_a_policy_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = begin("made_one_by_one")
    monkeypatch.setattr("airflow.settings.task_instance_mutation_hook.is_noop", False, raising=False)
    assert make(stream) == ["success"] * ITEMS


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("setting", NEED_A_WORKER)
def test_those_that_have_something_to_tell_are_left_to_the_scheduler(setting: str) -> None:
    _, arguments = NEED_A_WORKER[setting]
    assert make(begin(f"tells_{setting}", **arguments)) == [None] * ITEMS


@pytest.mark.usefixtures("database")
def test_those_whose_upstream_was_cleared_wait_for_it() -> None:
    stream = begin("upstream_cleared")
    set_state(stream, None, TaskInstance.task_id == USERS)
    assert make(stream) == [None] * ITEMS


class SkipsByIndex(EmptyOperator, SkipMixin):
    """Stands for a branch: what it skips, it writes down for each of its own instances."""


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.usefixtures("database")
def test_those_that_a_mapped_branch_may_skip_one_by_one_are_left_to_the_scheduler(is_mapped: bool) -> None:
    def branch() -> Any:
        if is_mapped:
            return SkipsByIndex.partial(task_id="branch").expand(doc=["a", "b"])
        return SkipsByIndex(task_id="branch")

    stream = OpenStream.begin(f"branch_{is_mapped}", EmptyOperator, upstream=branch)
    stream.announce("board", 1)
    set_state(stream, "success", TaskInstance.task_id == "branch")
    assert make(stream) == [None if is_mapped else "success"] * ITEMS


@pytest.mark.usefixtures("database")
def test_only_what_is_new_or_back_becomes_a_success() -> None:
    """What the scheduler has begun, or a cleared item, is its own."""
    stream = begin("others")
    make(stream, 3)
    set_state(stream, "running", TaskInstance.map_index == 1)
    set_state(stream, None, TaskInstance.map_index == 2)
    assert make(stream, 4) == ["running", "success", "success", "success"]
    assert [row["try_number"] for row in stream.rows()] == [1, 2, 1, 1]


@pytest.mark.usefixtures("database")
def test_those_that_became_removed_are_a_success_again() -> None:
    stream = begin("removed")
    make(stream)
    set_state(stream, "removed", TaskInstance.map_index > 3)
    assert serve(stream, lambda records, run: records.restore_removed(run, ITEMS)) == 2
    assert [row["state"] for row in stream.rows()] == ["success"] * ITEMS


@pytest.mark.usefixtures("database")
def test_no_place_is_missing_where_none_is_needed() -> None:
    with create_session() as session:
        session.add(Pool(pool="one", slots=1, include_deferred=True))
    try:
        missing = {
            operator: serve(
                begin(f"place_{operator.__name__}", operator, pool="one"),
                lambda records, _: records.missing_place(),
            )
            for operator in (EmptyOperator, EchoOperator)
        }
    finally:
        with create_session() as session:
            session.execute(delete(Pool).where(Pool.pool == "one"))
    assert missing[EmptyOperator] is None
    assert "no slot in pool 'one'" in missing[EchoOperator]
