"""Runs that were started for instances of other runs, in the metadata database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.utils.state import DagRunState, State, TaskInstanceState
from sqlalchemy import and_, delete, func, select, update

from deferred_expand.airflow_internals.locks import bound_waits
from deferred_expand.airflow_internals.metadata import LONGEST_LABEL

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow.models.dagbag import DBDagBag
    from sqlalchemy.orm import Session

_AT_WORK = ("running", "deferred", "up_for_reschedule", "awaiting_input")


@dataclass(frozen=True)
class Waiting:
    """
    An instance that has told of its child.

    :param child: as it has: ``dag_id``, ``run_id`` and what is asked for.
    :param label: of the instance.
    """

    id: Any
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    state: str | None
    label: str | None
    child: dict[str, Any]

    @property
    def run(self) -> tuple[str, str]:
        """DAG id and run id of the child."""
        return self.child["dag_id"], self.child["run_id"]

    @property
    def name(self) -> str:
        return (
            f"task {self.task_id!r}, map index {self.map_index}, of DAG {self.dag_id!r}, run {self.run_id!r}"
        )


@dataclass(frozen=True)
class Child:
    """
    :param trouble: what keeps it from running, for people.
    :param behind: so many runs of its DAG, which are as many as may be active.
    """

    state: str
    clear_number: int
    trouble: str | None
    behind: int | None = None


def waiting_here(session: Session, triggerer_id: int, key: str) -> list[Waiting]:
    """:param key: of the XCom in which instances tell of their children."""
    found = session.execute(
        _tellers(key)
        .join(Trigger, TaskInstance.trigger_id == Trigger.id)
        .where(Trigger.triggerer_id == triggerer_id, TaskInstance.state == "deferred")
    )
    return [Waiting(*row) for row in found]


def in_states(session: Session, key: str, states: Collection[str]) -> list[Waiting]:
    """Those whose instances are in one of these states."""
    return [Waiting(*row) for row in session.execute(_tellers(key).where(TaskInstance.state.in_(states)))]


def _tellers(key: str) -> Any:
    same = ("dag_id", "run_id", "task_id", "map_index")
    return (
        select(
            TaskInstance.id,
            *(getattr(TaskInstance, name) for name in same),
            TaskInstance.state,
            TaskInstance._rendered_map_index,
            XComModel.value,
        )
        .join(
            XComModel,
            and_(*(getattr(XComModel, name) == getattr(TaskInstance, name) for name in same)),
        )
        .where(XComModel.key == key)
    )


def lock(session: Session, waiting: Waiting, key: str, triggerer_id: int | None = None) -> Waiting | None:
    """
    Keep everyone else from an instance until the transaction ends.

    :param triggerer_id: it must still wait there: who was taken over from can do nothing.
    :return: as it is now; ``None``: someone has it, or its state is another.
    """
    bound_waits(session)
    locked = select(TaskInstance.id).where(TaskInstance.id == waiting.id, TaskInstance.state == waiting.state)
    tables: tuple[Any, ...] = (TaskInstance,)
    if triggerer_id is not None:
        tables = (TaskInstance, Trigger)
        locked = locked.join(Trigger, TaskInstance.trigger_id == Trigger.id)
        locked = locked.where(Trigger.triggerer_id == triggerer_id)
    if session.scalar(locked.with_for_update(of=tables, skip_locked=True, key_share=True)) is None:
        return None
    row = session.execute(_tellers(key).where(TaskInstance.id == waiting.id)).first()
    return None if row is None else Waiting(*row)


def look_at(session: Session, children: Collection[tuple[str, str]]) -> dict[tuple[str, str], Child]:
    """By DAG id and run id; one that is gone is left out."""
    found: dict[tuple[str, str], Child] = {}
    for dag_id in sorted({dag_id for dag_id, _ in children}):
        model = session.scalar(select(DagModel).where(DagModel.dag_id == dag_id))
        running = None
        rows = session.execute(
            select(DagRun.run_id, DagRun.state, DagRun.clear_number).where(
                DagRun.dag_id == dag_id,
                DagRun.run_id.in_([run_id for name, run_id in children if name == dag_id]),
            )
        ).all()
        if any(str(row.state) == "queued" for row in rows):
            running = session.scalar(
                select(func.count()).where(DagRun.dag_id == dag_id, DagRun.state == "running")
            )
        for row in rows:
            state = str(row.state)
            trouble, behind = _trouble(model), None
            if trouble is None and state == "queued" and model is not None and running is not None:
                behind = running if running >= (model.max_active_runs or 0) else None
            if behind is not None:
                trouble = f"queued: DAG {dag_id!r} has {behind} runs, as many as its max_active_runs"
            if state in ("success", "failed"):
                trouble = None
            found[dag_id, row.run_id] = Child(state, row.clear_number, trouble, behind)
    return found


def _trouble(model: DagModel | None) -> str | None:
    if model is None:
        return "its DAG is gone"
    if model.has_import_errors:
        return f"DAG {model.dag_id!r} cannot be parsed"
    if model.is_stale:
        return f"DAG {model.dag_id!r} is gone"
    if model.is_paused:
        return f"DAG {model.dag_id!r} is paused"
    return None


def clear_failed(session: Session, dags: DBDagBag, dag_id: str, run_id: str) -> int:
    """:return: how many instances run again. :raises LookupError: the DAG is gone."""
    dag, _ = _dag_of(session, dags, dag_id, run_id)
    return int(dag.clear(run_id=run_id, only_failed=True, session=session))


def fail_run(session: Session, dags: DBDagBag, dag_id: str, run_id: str) -> None:
    """
    As a person does who marks it failed; but what has not run yet is not skipped then, so that it runs
    when what has failed is cleared.

    :raises LookupError: the DAG is gone.
    """
    dag, run = _dag_of(session, dags, dag_id, run_id)
    if run is None or str(run.state) not in ("queued", "running"):
        return
    unfinished = session.scalars(
        select(TaskInstance).where(
            TaskInstance.dag_id == dag_id,
            TaskInstance.run_id == run_id,
            TaskInstance.state.is_(None) | TaskInstance.state.not_in(State.finished),
        )
    ).all()
    teardowns = {task.task_id for task in dag.tasks if task.is_teardown}
    # Not by Airflow's api/common/mark_tasks.py: on 3.2 it has sessions of its own, which wait for this one.
    for instance in unfinished:
        if instance.task_id not in teardowns:
            at_work = instance.state in _AT_WORK
            state = TaskInstanceState.FAILED if at_work else TaskInstanceState.UPSTREAM_FAILED
            instance.set_state(state, session=session)
    if not any(instance.task_id in teardowns for instance in unfinished):
        run.set_state(DagRunState.FAILED)
    session.flush()


def _dag_of(session: Session, dags: DBDagBag, dag_id: str, run_id: str) -> tuple[Any, DagRun | None]:
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    dag = None if run is None else dags.get_dag_for_run(dag_run=run, session=session)
    if dag is None:
        raise LookupError(f"DAG {dag_id!r} of run {run_id!r} is not to be found")
    return dag, run


def tell(session: Session, waiting: Waiting, key: str, child: dict[str, Any] | None) -> None:
    """Change what an instance has told of its child; ``None``: there is none any more."""
    where = (
        XComModel.dag_id == waiting.dag_id,
        XComModel.run_id == waiting.run_id,
        XComModel.task_id == waiting.task_id,
        XComModel.map_index == waiting.map_index,
        XComModel.key == key,
    )
    if child is None:
        session.execute(delete(XComModel).where(*where).execution_options(synchronize_session=False))
    else:
        session.execute(
            update(XComModel).where(*where).values(value=child).execution_options(synchronize_session=False)
        )


def label(session: Session, waiting: Waiting, text: str) -> None:
    session.execute(
        update(TaskInstance)
        .where(TaskInstance.id == waiting.id, TaskInstance.state == "deferred")
        .values(_rendered_map_index=text[:LONGEST_LABEL])
        .execution_options(synchronize_session=False)
    )
