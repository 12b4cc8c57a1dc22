"""Which stream heads are deferred in a triggerer, as its own process finds them in the metadata database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from sqlalchemy import and_, select
from sqlalchemy.orm import aliased

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import Select
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Head:
    """
    A stream head that is deferred on a trigger of this triggerer.

    :param map_index: 0; -1 where it is an unmapped task: of a stream that no task is expanded over, or beside
        a task group.
    :param announced_at: when its trigger last wrote its announcement.
    :param group_id: of the task group that is expanded over the stream, as the announcement says.
    """

    id: Any
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    trigger_id: int
    dag_version_id: Any
    announced_at: datetime
    group_id: str | None = None


def announced_heads(session: Session, triggerer_id: int, key: str) -> list[Head]:
    """
    The heads whose triggers run here and have announced something, committed or not.

    Begins at the triggers of this triggerer, so it costs next to nothing where there is none.

    :param key: of the announcement, an XCom of the head.
    """
    found = session.execute(
        _deferred_in(
            triggerer_id,
            TaskInstance.id,
            TaskInstance.dag_id,
            TaskInstance.run_id,
            TaskInstance.task_id,
            TaskInstance.map_index,
            TaskInstance.try_number,
            TaskInstance.trigger_id,
            TaskInstance.dag_version_id,
            XComModel.timestamp,
            XComModel.value["group_id"].as_string(),
        )
        .join(XComModel, and_(*_of_same_task(XComModel), XComModel.map_index == TaskInstance.map_index))
        .where(TaskInstance.map_index.in_((0, -1)), XComModel.key == key)
    )
    return [Head(*row) for row in found]


def written_by_people(session: Session, key: str) -> dict[tuple[str, str, str], datetime]:
    """
    When XComs of unmapped tasks of running runs were last written: by DAG, run and task id.

    By the index on keys: it costs next to nothing where nobody has written one.

    :param key: of the XComs.
    """
    found = session.execute(
        select(XComModel.dag_id, XComModel.run_id, XComModel.task_id, XComModel.timestamp)
        .join(DagRun, and_(DagRun.dag_id == XComModel.dag_id, DagRun.run_id == XComModel.run_id))
        .where(XComModel.key == key, XComModel.map_index == -1, DagRun.state == "running")
    )
    return {(row.dag_id, row.run_id, row.task_id): row.timestamp for row in found}


def heads_with_removed_items(session: Session, triggerer_id: int) -> set[Any]:
    """Ids of heads whose triggers run here, and some of whose items the scheduler took for surplus."""
    item = aliased(TaskInstance)
    return set(
        session.scalars(
            _deferred_in(triggerer_id, TaskInstance.id)
            .join(item, and_(*_of_same_task(item)))
            .where(TaskInstance.map_index == 0, item.state == "removed", item.map_index > 0)
            .distinct()
        )
    )


def states_of(session: Session, ids: Collection[Any]) -> dict[Any, str | None]:
    """The states of those of these instances that are still there."""
    found = session.execute(select(TaskInstance.id, TaskInstance.state).where(TaskInstance.id.in_(ids)))
    return {row.id: row.state for row in found}


def _deferred_in(triggerer_id: int, *columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .select_from(Trigger)
        .join(TaskInstance, TaskInstance.trigger_id == Trigger.id)
        .where(Trigger.triggerer_id == triggerer_id, TaskInstance.state == "deferred")
    )


def _of_same_task(rows: Any) -> tuple[Any, ...]:
    return tuple(
        getattr(rows, name) == getattr(TaskInstance, name) for name in ("dag_id", "task_id", "run_id")
    )
