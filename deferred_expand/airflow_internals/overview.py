"""Streams as the metadata database has them, in few statements however many there are."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.sdk.configuration import conf
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from airflow.utils.session import create_session
from sqlalchemy import and_, func, select, tuple_
from sqlalchemy.orm import aliased

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session


@dataclass
class StreamFound:
    """
    :param task_id: of the unmapped task.
    :param written: what that has written down of the stream when it was done.
    :param log: its commit log, as it is stored.
    :param head: the instance that waits for the stream: task and map index.
    :param state: of the head.
    :param triggerer_id: of the triggerer that its trigger is assigned to.
    :param items: instances of the task over the stream by their states, the head's not counted.
    """

    dag_id: str
    run_id: str
    task_id: str
    written: dict[str, Any] | None
    log: Any
    head: tuple[str, int] = ("", -1)
    state: str | None = None
    started: datetime | None = None
    triggerer_id: int | None = None
    items: dict[str, int] = field(default_factory=dict)

    @property
    def mapped_task_id(self) -> str | None:
        """Whose instances are the items'; of a task group, the task whose results count."""
        return self.written["mapped_task"] if self.written else None


def find_streams(
    session: Session, keys: tuple[str, str], dag_id: str | None = None, run_id: str | None = None
) -> list[StreamFound]:
    """
    Of one run; without, of all that are running.

    :param keys: of commit logs, and of what unmapped tasks have written down.
    """
    log, written = XComModel, aliased(XComModel)
    same = (written.dag_id == log.dag_id, written.run_id == log.run_id, written.task_id == log.task_id)
    query = (
        select(log.dag_id, log.run_id, log.task_id, written.value, log.value)
        .join(DagRun, and_(DagRun.dag_id == log.dag_id, DagRun.run_id == log.run_id))
        .outerjoin(written, and_(*same, written.map_index == -1, written.key == keys[1]))
        .where(log.key == keys[0])
        .order_by(log.dag_id, log.run_id, log.task_id)
    )
    if dag_id is None:
        query = query.where(DagRun.state == "running")
    else:
        query = query.where(log.dag_id == dag_id, log.run_id == run_id)
    found = [StreamFound(*row) for row in session.execute(query)]
    for stream in found:
        stream.head = _head(stream)
    _look_at_heads(session, found)
    _count_items(session, found)
    return found


def _head(stream: StreamFound) -> tuple[str, int]:
    """As the unmapped task has written down when it was done; it waits itself before."""
    written = stream.written or {}
    if beside_group := written.get("head"):
        return beside_group, -1
    mapped = written.get("mapped_task")
    return (mapped, 0) if mapped else (stream.task_id, -1)


def _look_at_heads(session: Session, found: list[StreamFound]) -> None:
    key = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    of_key: dict[Any, StreamFound] = {
        (stream.dag_id, stream.run_id, *stream.head): stream for stream in found
    }
    query = (
        select(*key, TaskInstance.state, TaskInstance.start_date, Trigger.triggerer_id)
        .outerjoin(Trigger, TaskInstance.trigger_id == Trigger.id)
        .where(tuple_(*key).in_(list(of_key)))
    )
    for *row, state, started, triggerer_id in session.execute(query):
        stream = of_key[tuple(row)]
        stream.state, stream.started, stream.triggerer_id = state, started, triggerer_id


def _count_items(session: Session, found: list[StreamFound]) -> None:
    key = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id)
    of_key: dict[Any, StreamFound] = {
        (stream.dag_id, stream.run_id, stream.mapped_task_id): stream for stream in found
    }
    first = (TaskInstance.map_index == 0).label("first")
    query = (
        select(*key, first, TaskInstance.state, func.count())
        .where(tuple_(*key).in_(list(of_key)), TaskInstance.map_index >= 0)
        .group_by(*key, first, TaskInstance.state)
    )
    counts: dict[Any, dict[str, int]] = defaultdict(Counter)
    for *row, is_first, state, count in session.execute(query):
        if not (is_first and of_key[tuple(row)].head[1] == 0):  # which is the head
            counts[tuple(row)][state or "none"] += count
    for stream_key, items in counts.items():
        of_key[stream_key].items = items


def api_address() -> str:
    """Where Airflow's API is, for users."""
    return str(conf.get("api", "base_url", fallback="http://localhost:8080")).rstrip("/")
