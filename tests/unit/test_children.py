"""What the expander does for windows: clear what has failed in their runs, stop these, say what they miss."""

from __future__ import annotations

import re
from typing import Any

import pytest
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagcode import DagCode
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from sqlalchemy import delete, select, update

from deferred_expand.airflow_internals import children
from deferred_expand.airflow_internals.metadata import dag_cache
from deferred_expand.committing.store import CHILD_KEY
from deferred_expand.plugin.children import ChildKeeper
from tests.metadata_database import (
    INSERT,
    RUN_ID,
    TRIGGERER,
    OpenStream,
    begin_run,
    write_xcom,
)

States = dict[str, str | None]


class Window:
    """An instance that waits, and its child with three tasks."""

    def __init__(self, name: str) -> None:
        self.stream = OpenStream.begin(f"parent_{name}")
        self.parent, self.dag_id = self.stream.dag_id, f"child_{name}"
        with DAG(self.dag_id, schedule=None, is_paused_upon_creation=False, max_active_runs=1) as dag:
            EmptyOperator(task_id="a") >> EmptyOperator(task_id="b") >> EmptyOperator(task_id="c")
        with create_session() as session:
            begin_run(dag, session)

    def tell(self, clear: int | None = None) -> None:
        child = {"dag_id": self.dag_id, "run_id": RUN_ID, "clear": clear, "label": "window 1"}
        with create_session() as session:
            write_xcom(session, self.stream.run(session), CHILD_KEY, INSERT, 0, child)

    def told(self) -> Any:
        with create_session() as session:
            query = select(XComModel.value).where(XComModel.key == CHILD_KEY)
            return session.scalar(query.where(XComModel.dag_id == self.parent))

    def set_instance(self, **values: Any) -> None:
        with create_session() as session:
            session.execute(
                update(TaskInstance)
                .where(TaskInstance.dag_id == self.parent, TaskInstance.task_id == INSERT)
                .values(**values)
            )

    @property
    def label(self) -> str | None:
        with create_session() as session:
            query = select(TaskInstance._rendered_map_index)
            return session.scalar(
                query.where(TaskInstance.dag_id == self.parent, TaskInstance.task_id == INSERT)
            )

    def set_child(self, state: str, clear_number: int = 0, **tasks: str | None) -> None:
        with create_session() as session:
            of_run = update(DagRun).where(DagRun.dag_id == self.dag_id)
            session.execute(of_run.values(state=state, clear_number=clear_number))
            for task_id, task_state in tasks.items():
                of_task = update(TaskInstance).where(
                    TaskInstance.dag_id == self.dag_id, TaskInstance.task_id == task_id
                )
                session.execute(of_task.values(state=task_state, try_number=1))

    def child(self) -> tuple[str, int, States]:
        """State, how often it was cleared, and the states of its tasks."""
        with create_session() as session:
            run = session.execute(
                select(DagRun.state, DagRun.clear_number).where(DagRun.dag_id == self.dag_id)
            ).one()
            found = session.execute(
                select(TaskInstance.task_id, TaskInstance.state).where(TaskInstance.dag_id == self.dag_id)
            )
            return str(run.state), run.clear_number, {row.task_id: row.state for row in found}


@pytest.fixture
def window(request: pytest.FixtureRequest, database: str) -> Window:
    return Window(re.sub("[^a-z0-9]", "_", request.node.name.partition("[")[2] + request.node.originalname))


def look(triggerer_id: int = TRIGGERER) -> None:
    ChildKeeper(triggerer_id, dag_cache()).look()


def test_what_has_failed_is_cleared_once(window: Window) -> None:
    window.set_child("failed", a="success", b="failed", c="upstream_failed")
    window.tell(clear=0)
    look(triggerer_id=TRIGGERER + 1)
    assert window.child()[0] == "failed", "another triggerer's"
    look()
    assert window.child() == ("queued", 1, {"a": "success", "b": None, "c": None})
    assert window.told()["clear"] is None
    window.set_child("failed", 1, b="failed")
    look()
    assert window.child()[0] == "failed", "it was not asked for that"


def test_one_that_somebody_else_has_cleared_is_let_be(window: Window) -> None:
    window.set_child("failed", 1, a="failed")
    window.tell(clear=0)
    look()
    assert window.child()[:2] == ("failed", 1)
    assert window.told()["clear"] is None


@pytest.mark.parametrize(
    ("model", "trouble"),
    [
        ({"is_paused": True}, "is paused"),
        ({"has_import_errors": True}, "cannot be parsed"),
        ({"is_stale": True}, "is gone"),
        ({"max_active_runs": 0}, "has 0 runs, as many as its max_active_runs"),
    ],
)
def test_what_keeps_it_from_running_is_said_until_it_does(
    window: Window, model: dict[str, Any], trouble: str
) -> None:
    def set_model(**values: Any) -> None:
        with create_session() as session:
            session.execute(update(DagModel).where(DagModel.dag_id == window.dag_id).values(**values))

    window.set_child("queued")
    window.tell()
    set_model(**model)
    look()
    label = str(window.label)
    assert label.startswith("window 1: ")
    assert label.endswith(f"DAG {window.dag_id!r} {trouble}")
    set_model(is_paused=False, has_import_errors=False, is_stale=False, max_active_runs=16)
    look()
    assert window.label == "window 1"


def test_more_windows_than_may_have_a_run_at_a_time_are_warned_of_once(
    window: Window, caplog: pytest.LogCaptureFixture
) -> None:
    window.set_child("queued")
    window.tell()
    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == window.dag_id).values(max_active_runs=0))
    keeper = ChildKeeper(TRIGGERER, dag_cache())
    for _ in range(2):
        keeper._look_at = 0.0
        keeper.look()
    (told,) = [record.getMessage() for record in caplog.records if "max_pending" in record.getMessage()]
    assert f"DAG {window.dag_id!r} has 0 runs, as many as its max_active_runs" in told


@pytest.mark.parametrize("state", ["failed", "skipped", "upstream_failed", "removed"])
def test_the_child_of_one_that_was_stopped_is_and_goes_on_with_all_of_its_rest(
    window: Window, state: str
) -> None:
    window.set_child("running", a="success", b="running", c=None)
    window.tell()
    window.set_instance(state=state, trigger_id=None)
    look()
    assert window.child()[::2] == ("failed", {"a": "success", "b": "failed", "c": "upstream_failed"})
    assert window.told() is None
    look()


@pytest.mark.parametrize("state", ["success", "running", "up_for_retry", None])
def test_the_child_of_any_other_goes_on(window: Window, state: str | None) -> None:
    window.set_child("running", a="success", b="running", c=None)
    window.tell()
    window.set_instance(state=state, trigger_id=None)
    look()
    assert window.child()[0] == "running"
    assert window.told() is not None


def test_one_that_cannot_be_served_keeps_no_other_from_it(window: Window) -> None:
    other = Window(f"{window.dag_id}_other")
    for one in (window, other):
        one.set_child("failed", a="failed")
        one.tell(clear=0)
    with create_session() as session:
        gone = DagVersion.dag_id == window.dag_id
        session.execute(
            update(DagRun).where(DagRun.dag_id == window.dag_id).values(created_dag_version_id=None)
        )
        session.execute(delete(SerializedDagModel).where(SerializedDagModel.dag_id == window.dag_id))
        session.execute(delete(DagCode).where(DagCode.dag_id == window.dag_id))
        session.execute(
            update(TaskInstance).where(TaskInstance.dag_id == window.dag_id).values(dag_version_id=None)
        )
        session.execute(delete(DagVersion).where(gone))
    look()
    assert other.child()[:2] == ("queued", 1)
    assert window.child()[:2] == ("failed", 0)
    assert window.told()["clear"] is None, "who waits for it is not left waiting"


def test_who_was_taken_over_from_clears_nothing(window: Window) -> None:
    window.set_child("failed", a="failed")
    window.tell(clear=0)
    keeper = ChildKeeper(TRIGGERER, dag_cache())
    with create_session() as session:
        here = children.waiting_here(session, TRIGGERER, CHILD_KEY)
        (seen,) = [one for one in here if one.dag_id == window.parent]
        trigger = select(TaskInstance.trigger_id).where(TaskInstance.id == seen.id).scalar_subquery()
        session.execute(update(Trigger).where(Trigger.id == trigger).values(triggerer_id=TRIGGERER + 1))
    with create_session(scoped=False) as session:
        keeper._serve(session, seen)
    assert window.child()[:2] == ("failed", 0)
    assert window.told()["clear"] == 0
