"""
The SQL of a stream's records, on SQLite and Postgres: whom its lock lets commit, and what others see.

What the crash model takes for the database is held to the same answers.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.state import DagRunState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, delete, event, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from deferred_expand.airflow_internals import heads as real_heads
from deferred_expand.airflow_internals.heads import Head
from deferred_expand.airflow_internals.metadata import StreamRecords
from tests import memory_database
from tests.e2e.operators import EchoOperator
from tests.memory_airflow import DAG_ID, EPOCH, RUN_ID, MemoryAirflow, Tables
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

TASK, KEY = "insert", "key"
HERE, ELSEWHERE = 1, 2  # triggerers
HEAD = Head(uuid.uuid4(), DAG_ID, RUN_ID, TASK, 0, 1, 7, None, EPOCH)
OTHER_TRIGGER = 8
MODELS: tuple[Any, ...] = (XComModel, TaskMap, TaskInstance, Trigger, DagRun, DagModel)


def waiting(**changes: Any) -> Tables:
    """The head is deferred on its trigger, which runs here."""
    tables = Tables(instances={(TASK, 0): "deferred"}, triggers={7: HERE, OTHER_TRIGGER: HERE})
    tables.head.id, tables.head.trigger_id = HEAD.id, HEAD.trigger_id
    return replace(tables, **changes)


# -- a real database -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'airflow.db'}")
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Engine]:
    with postgres_server() as server:
        made = create_engine(server.get_uri())
        event.listen(made, "connect", _without_foreign_keys)
        yield made
        made.dispose()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """With Airflow's tables."""
    import_all_models()
    made: Engine = request.getfixturevalue(request.param)
    Base.metadata.create_all(made)
    return made


def _without_foreign_keys(connection: Any, _: Any) -> None:
    """A few tables are enough then."""
    with connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
    connection.commit()


@cache
def _dags() -> Any:
    with DAG(DAG_ID, schedule=None) as dag:
        EchoOperator.partial(task_id=TASK).expand(value=[1])
    serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    return SimpleNamespace(get_dag_for_run=lambda **_: serialized)


def _records(session: Session, head: Head = HEAD) -> StreamRecords:
    return StreamRecords(session, head, _dags(), lambda: None)


def fill(engine: Engine, tables: Tables) -> None:
    """Write down what the tables in memory say."""
    task = _dags().get_dag_for_run().get_task(TASK)
    with Session(engine) as session, session.begin():
        for model in MODELS:
            session.execute(delete(model))
        dag = {"is_paused": tables.is_paused, "is_stale": tables.is_stale, "bundle_name": "b"}
        session.add(DagModel(dag_id=DAG_ID, timetable_type="", **dag))
        run = DagRun(
            dag_id=DAG_ID,
            run_id=RUN_ID,
            state=DagRunState(tables.run_state),
            run_type="manual",
            run_after=EPOCH,
        )
        run.last_scheduling_decision = tables.last_scheduling_decision
        session.add(run)
        for number, triggerer in tables.triggers.items():
            row = {"id": number, "classpath": "", "kwargs": "", "created_date": EPOCH}
            session.execute(insert(Trigger.__table__).values(triggerer_id=triggerer, **row))
        for (task_id, index), state in tables.instances.items():
            instance = TaskInstance(task, run_id=RUN_ID, map_index=index, dag_version_id=None, state=state)
            instance.task_id = task_id
            if index == 0:
                instance.id, instance.trigger_id = tables.head.id, tables.head.trigger_id
                instance.try_number = tables.head.try_number
            session.add(instance)
        for task_id, length in tables.lengths.items():
            session.add(TaskMap(DAG_ID, task_id, RUN_ID, -1, length, None))
        session.flush()
        for (task_id, index, key), value in tables.xcoms.items():
            where = {"dag_id": DAG_ID, "run_id": RUN_ID, "task_id": task_id, "map_index": index}
            session.add(XComModel(dag_run_id=run.id, key=key, value=json.loads(value), **where))


def contents(engine: Engine) -> tuple[Any, ...]:
    """What the expander may change."""
    with Session(engine) as session:
        xcoms = session.execute(
            select(XComModel.task_id, XComModel.map_index, XComModel.key, XComModel.value)
        )
        states = session.execute(select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state))
        lengths = session.execute(select(TaskMap.task_id, TaskMap.length))
        return (
            {(task_id, index, key): json.dumps(value) for task_id, index, key, value in xcoms},
            {(task_id, index): state for task_id, index, state in states},
            {task_id: length for task_id, length in lengths},
        )


# -- the same twice --------------------------------------------------------------------------------

booleans = st.booleans()
indexes = st.integers(1, 4)
states = st.sampled_from([None, "success", "removed", "running"])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(["a", "b"]), st.integers(0, 3)),
        st.tuples(st.just("read"), st.sampled_from(["a", "b"]), st.just(0)),
        st.tuples(st.just("grow"), st.sampled_from(["users", "others"]), st.integers(1, 6)),
        st.tuples(st.just("create_instances"), indexes, indexes),
        st.tuples(st.just("restore_removed"), indexes, st.just(0)),
    ),
    max_size=6,
)


@st.composite
def any_tables(draw: st.DrawFn) -> Tables:
    """Mostly of a stream that may be committed."""
    rarely = st.sampled_from([False] * 7 + [True])
    tables = waiting()
    tables.instances |= draw(st.dictionaries(st.tuples(st.just(TASK), indexes), states, max_size=4))
    tables.lengths = {"users": draw(st.integers(1, 5))}
    tables.xcoms = {("users", -1, key): json.dumps([key]) for key in draw(st.sets(st.sampled_from("ab")))}
    if draw(booleans):
        tables.write_xcom((TASK, 0, KEY), "1")
    if draw(rarely):
        tables.instances[TASK, 0] = draw(st.sampled_from([None, "scheduled", "running", "success"]))
    if draw(rarely):
        tables.head.id = uuid.uuid4()
    if draw(rarely):
        tables.head.trigger_id = draw(st.sampled_from([None, OTHER_TRIGGER]))
    if draw(rarely):
        tables.triggers[7] = draw(st.sampled_from([None, ELSEWHERE]))
    if draw(rarely):
        del tables.triggers[7]
    if draw(rarely):
        tables.run_state = draw(st.sampled_from(["failed", "queued"]))
    tables.is_paused, tables.is_stale = draw(rarely), draw(rarely)
    return tables


def carry_out(records: Any, steps: list[tuple[str, Any, int]]) -> list[Any]:
    """:return: whether the lock was given, and all that was answered."""
    run = records.lock(HERE)
    if run is None:
        return [None]
    answers: list[Any] = [run.last_scheduling_decision]
    for name, first, second in steps:
        if name == "write":
            records.write(run, first, "users", [second])
        elif name == "read":
            answers.append(records.read(first, "users", -1))
        elif name == "create_instances":
            answers.append(records.create_instances(run, first, second))
        elif name == "restore_removed":
            answers.append(records.restore_removed(run, first))
        else:
            records.grow(first, second)
    return answers


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=any_tables(), steps=operations)
def test_the_database_in_memory_answers_as_the_real_one_does(
    engine: Engine, tables: Tables, steps: list[tuple[str, Any, int]]
) -> None:
    fill(engine, tables)
    airflow = MemoryAirflow()
    airflow.tables = tables
    with memory_database.MemoryDatabase(airflow).create_session() as memory:
        with Session(engine) as session:
            for name in ("announced_heads", "heads_with_removed_items"):
                arguments = (HERE, KEY) if name == "announced_heads" else (HERE,)
                found = getattr(real_heads, name)(session, *arguments)
                modelled = getattr(memory_database, name)(TASK, memory, *arguments)
                assert _without_times(found) == _without_times(modelled)
        with Session(engine) as session:
            real = carry_out(_records(session), steps)
            assert real == carry_out(memory_database.MemoryRecords(memory, HEAD, None, lambda: None), steps)
            session.commit()
    assert contents(engine) == (tables.xcoms, tables.instances, tables.lengths)


def _without_times(found: Any) -> Any:
    return [replace(head, announced_at=EPOCH) for head in found] if isinstance(found, list) else found


# -- the lock ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("it runs", {"instances": {(TASK, 0): "running"}}),
        ("its trigger has moved", {"triggers": {7: ELSEWHERE}}),
        ("its trigger is with nobody", {"triggers": {7: None}}),
        ("its trigger is gone", {"triggers": {OTHER_TRIGGER: HERE}}),
        ("its run is over", {"run_state": "failed"}),
        ("its DAG is paused", {"is_paused": True}),
        ("its DAG is gone", {"is_stale": True}),
    ],
)
def test_a_stream_is_locked_only_for_whom_its_trigger_is_assigned_to(
    engine: Engine, why: str, changes: dict[str, Any]
) -> None:
    fill(engine, waiting())
    with Session(engine) as session:
        assert _records(session).lock(HERE) is not None
    fill(engine, waiting(**changes))
    with Session(engine) as session:
        assert _records(session).lock(HERE) is None, why


def test_a_head_that_was_deferred_anew_is_another_one(engine: Engine) -> None:
    """The old trigger's row is still there, until it is cleaned up."""
    fill(engine, waiting())
    others = [replace(HEAD, trigger_id=OTHER_TRIGGER), replace(HEAD, id=uuid.uuid4())]
    for head in (*others, HEAD):
        with Session(engine) as session:
            assert (_records(session, head).lock(HERE) is not None) == (head is HEAD)


def test_a_mapped_length_never_becomes_less(engine: Engine) -> None:
    fill(engine, waiting(lengths={"users": 3}))
    for length, expected in ((2, 3), (5, 5)):
        with Session(engine) as session:
            records = _records(session)
            records.lock(HERE)
            records.grow("users", length)
            session.commit()
        assert contents(engine)[2] == {"users": expected}


def test_only_a_skipped_head_is_failed(engine: Engine) -> None:
    for state, becomes in (("skipped", "failed"), ("success", "success"), ("scheduled", "scheduled")):
        fill(engine, waiting(instances={(TASK, 0): state, (TASK, 1): "skipped"}))
        with Session(engine) as session:
            assert real_heads.states_of(session, [HEAD.id, uuid.uuid4()]) == {HEAD.id: state}
        with Session(engine) as session, session.begin():
            assert _records(session).fail_skipped_head("why") == (state == "skipped")
        assert contents(engine)[1] == {(TASK, 0): becomes, (TASK, 1): "skipped"}


@pytest.mark.parametrize(
    ("slots", "include_deferred", "others", "missing"),
    [
        (2, True, ["deferred"], "no slot in pool 'p': deferred tasks hold 2 of 2"),
        (3, True, ["deferred"], None),
        (2, True, ["running"], None),  # it ends
        (2, False, ["deferred"], None),
        (-1, True, ["deferred"], None),
        (1, True, [], "no slot in pool 'p': deferred tasks hold 1 of 1"),
    ],
)
def test_places_in_a_pool_that_deferred_tasks_hold(
    engine: Engine, slots: int, include_deferred: bool, others: list[str], missing: str | None
) -> None:
    """Also those of other tasks."""
    tables = waiting()
    tables.instances |= {("other", index): state for index, state in enumerate(others, 1)}
    fill(engine, tables)
    with Session(engine) as session, session.begin():
        session.execute(delete(Pool))
        session.add(Pool(pool="p", slots=slots, include_deferred=include_deferred, description=""))
        session.execute(update(TaskInstance).values(pool="p", pool_slots=1))
    with Session(engine) as session:
        assert _records(session).missing_place() == missing


@pytest.mark.parametrize(("limit", "runs", "is_missing"), [(2, 2, True), (3, 2, False), (2, 3, True)])
def test_places_of_a_task_that_the_heads_of_several_runs_hold(
    engine: Engine, limit: int, runs: int, is_missing: bool
) -> None:
    tables = waiting()  # each index stands for the head of a run here
    tables.instances |= {(TASK, index): "deferred" for index in range(1, runs)}
    fill(engine, tables)
    head = replace(HEAD, dag_version_id=uuid.uuid4())
    task = SimpleNamespace(max_active_tis_per_dag=limit, inherits_from_empty_operator=False)
    dag = SimpleNamespace(has_task=lambda _: True, get_task=lambda _: task)
    dags: Any = SimpleNamespace(get_dag=lambda version_id, session: dag)
    with Session(engine) as session:
        missing = StreamRecords(session, head, dags, lambda: None).missing_place()
    expected = f"max_active_tis_per_dag={limit}, and {runs} runs hold their stream open"
    assert missing == (expected if is_missing else None)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("held", [TaskInstance, Trigger])
def test_a_stream_whose_rows_another_one_holds_is_left_for_later(engine: Engine, held: Any) -> None:
    fill(engine, waiting())
    with Session(engine) as other, Session(engine) as session:
        other.execute(select(held.id).with_for_update())
        assert _records(session).lock(HERE) is None, "an error, had it waited"


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_what_a_transaction_has_not_committed_nobody_sees_and_nobody_overtakes(engine: Engine) -> None:
    """SQLite has one lock for all."""
    fill(engine, waiting(lengths={"users": 1}))
    before = contents(engine)
    with Session(engine) as session:
        records = _records(session)
        run = records.lock(HERE)
        assert run is not None
        records.grow("users", 3)
        records.create_instances(run, 1, 2)
        session.flush()
        assert contents(engine) == before
        assert _waits(
            engine, update(TaskInstance).where(TaskInstance.id == HEAD.id).values(state="scheduled")
        )
        assert _waits(engine, update(Trigger).where(Trigger.id == HEAD.trigger_id).values(triggerer_id=2))
        assert _waits(engine, update(TaskMap).values(length=2))
        session.commit()
    assert contents(engine)[1:] == (
        {(TASK, 0): "deferred", (TASK, 1): None, (TASK, 2): None},
        {"users": 3},
    )


def _waits(engine: Engine, statement: Any) -> bool:
    """Whether another one's statement waits for the transaction that is open."""
    with Session(engine) as other:
        other.execute(text("set local lock_timeout = '50ms'"))
        try:
            other.execute(statement)
        except OperationalError as error:
            return "lock timeout" in str(error)
    return False
