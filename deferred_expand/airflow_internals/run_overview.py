"""What else of a run people look at beside its streams: instances that iterate, and runs of windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import and_, select

try:
    from airflow.models.task_state_store import TaskStateStoreModel
except ImportError:  # Airflow 3.2, in which nothing iterates
    TaskStateStoreModel = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass
class InstanceFound:
    """
    :param label: of the instance, in place of its map index.
    :param kept: what is kept of it, as text of JSON (or what a state store backend has in its place), by key.
    """

    task_id: str
    map_index: int
    state: str | None
    label: str | None
    kept: dict[str, str] = field(default_factory=dict)


def iterating_instances(
    session: Session, dag_id: str, run_id: str, keys: tuple[str, ...], most: int
) -> list[InstanceFound]:
    """
    The first instances of a run of whose items something is kept.

    :param keys: of the task state store; who has the first is one.
    """
    store: Any = TaskStateStoreModel
    if store is None:
        return []
    of_instance = and_(
        TaskInstance.dag_id == store.dag_id,
        TaskInstance.run_id == store.run_id,
        TaskInstance.task_id == store.task_id,
        TaskInstance.map_index == store.map_index,
    )
    here = (store.dag_id == dag_id, store.run_id == run_id)
    first = (
        select(store.task_id, store.map_index)
        .where(*here, store.key == keys[0])
        .order_by(store.task_id, store.map_index)
        .limit(most)
        .subquery()
    )
    query = (
        select(
            store.task_id, store.map_index, TaskInstance.state, TaskInstance._rendered_map_index, store.key,
            store.value,
        )
        .join(TaskInstance, of_instance)
        .join(first, and_(first.c.task_id == store.task_id, first.c.map_index == store.map_index))
        .where(*here, store.key.in_(keys))
        .order_by(store.task_id, store.map_index)
    )  # fmt: skip
    found: dict[tuple[str, int], InstanceFound] = {}
    for *instance, key, value in session.execute(query):
        found.setdefault(tuple(instance[:2]), InstanceFound(*instance)).kept[key] = value
    return list(found.values())


@dataclass
class WindowFound:
    """
    An instance that waits for the run of its window.

    :param child_dag_id: the DAG of that run.
    :param child_state: of that run; ``None``: it is not there.
    """

    task_id: str
    map_index: int
    state: str | None
    label: str | None
    child_dag_id: str
    child_run_id: str
    child_state: str | None = None


def waiting_windows(session: Session, dag_id: str, run_id: str, key: str, most: int) -> list[WindowFound]:
    """
    Of a run, the first ones.

    :param key: of the XCom in which an instance says for which run it waits.
    """
    same = [getattr(XComModel, name) == getattr(TaskInstance, name) for name in (
        "dag_id", "run_id", "task_id", "map_index",
    )]  # fmt: skip
    first = (
        select(
            XComModel.task_id,
            XComModel.map_index,
            TaskInstance.state,
            TaskInstance._rendered_map_index,
            XComModel.value["dag_id"].as_string().label("child_dag_id"),
            XComModel.value["run_id"].as_string().label("child_run_id"),
        )
        .join(TaskInstance, and_(*same))
        .where(XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == key)
        .order_by(XComModel.task_id, XComModel.map_index)
        .limit(most)
        .subquery()
    )
    child = and_(DagRun.dag_id == first.c.child_dag_id, DagRun.run_id == first.c.child_run_id)
    query = select(first, DagRun.state).outerjoin(DagRun, child)
    return [WindowFound(*row) for row in session.execute(query.order_by(first.c.task_id, first.c.map_index))]
