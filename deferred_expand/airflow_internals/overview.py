"""Streams as the metadata database has them, in few statements however many there are."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.cli.simple_table import AirflowConsole
from airflow.jobs.job import Job
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.sdk.configuration import conf
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import (
    Integer,
    and_,
    case,
    cast,
    extract,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import aliased

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Select
    from sqlalchemy.orm import Session


BUT_SUCCESS = [state.value for state in TaskInstanceState if state is not TaskInstanceState.SUCCESS]


class Keys(NamedTuple):
    """
    Of the XComs of a stream.

    :param log: its commit log.
    :param record: what its unmapped task has written down of it.
    :param control: what a person has.
    :param announcement: of its trigger, kept under the instance that waits.
    """

    log: str
    record: str
    control: str
    announcement: str


class FailedItem(NamedTuple):
    """Its instance, and when that ended."""

    map_index: int
    state: str
    tries: int
    ended: datetime | None


@dataclass
class StreamFound:
    """
    :param task_id: of the unmapped task.
    :param record: what that has written down of the stream.
    :param log: its commit log, as it is stored.
    :param written: when that was last written.
    :param control: what a person has written, whatever it is.
    :param head: the instance that waits for the stream: task and map index.
    :param state: of the head.
    :param triggerer_id: of the triggerer that its trigger is assigned to; where that is, and its last beat.
    :param announced: by its trigger, as it is stored.
    :param items: instances of the task over the stream by their states but success, the head's not counted.
    :param failures: the first of those that have failed, where they were asked for.
    """

    dag_id: str
    run_id: str
    task_id: str
    record: dict[str, Any] | None
    log: Any
    written: datetime
    control: Any = None
    run_state: str | None = None
    head: tuple[str, int] = ("", -1)
    state: str | None = None
    started: datetime | None = None
    tries: int | None = None
    triggerer_id: int | None = None
    triggerer: str | None = None
    beat: datetime | None = None
    announced: dict[str, Any] | None = None
    items: dict[str, int] = field(default_factory=dict)
    failures: list[FailedItem] = field(default_factory=list)

    def is_called(self, task_id: str) -> bool:
        """By the id of its task, of the task over it, or of the task of its head."""
        return task_id in (self.task_id, self.mapped_task_id, self.head[0])

    @property
    def mapped_task_id(self) -> str | None:
        """Whose instances are the items'; of a task group, the task whose results count."""
        return self.record["mapped_task"] if self.record else None

    @property
    def first_index(self) -> int:
        """The map index of the first item: the stream head is before it, but beside a task group."""
        return 0 if self.record and "head" in self.record else 1


def find_streams(
    session: Session,
    keys: Keys,
    dag_id: str | None = None,
    run_id: str | None = None,
    failures_of: tuple[str, int] | None = None,
) -> list[StreamFound]:
    """
    Of one run; without, of all that are running. In three statements, however many there are.

    :param failures_of: what a stream is called whose failed items are looked up, and how many at most.
    """
    log, record, control = XComModel, aliased(XComModel), aliased(XComModel)
    query = (
        select(
            log.dag_id,
            log.run_id,
            log.task_id,
            record.value,
            log.value,
            log.timestamp,
            control.value,
            DagRun.state,
        )
        .join(DagRun, and_(DagRun.dag_id == log.dag_id, DagRun.run_id == log.run_id))
        .where(log.key == keys.log)
        .order_by(log.dag_id, log.run_id, log.task_id)
    )
    for beside, key in ((record, keys.record), (control, keys.control)):
        same = [getattr(beside, name) == getattr(log, name) for name in ("dag_id", "run_id", "task_id")]
        query = query.outerjoin(beside, and_(*same, beside.map_index == -1, beside.key == key))
    if dag_id is None:
        query = query.where(DagRun.state == "running")
    else:
        query = query.where(log.dag_id == dag_id, log.run_id == run_id)
    found = [StreamFound(*row) for row in session.execute(query)]
    for stream in found:
        stream.head = tuple((stream.record or {}).get("waiter", (stream.task_id, -1)))
    _look_at_heads(session, found, keys.announcement)
    _look_at_items(session, found, failures_of)
    return found


def _look_at_heads(session: Session, found: list[StreamFound], announcement: str) -> None:
    key = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    of_key: dict[Any, StreamFound] = {
        (stream.dag_id, stream.run_id, *stream.head): stream for stream in found
    }
    query = (
        select(
            *key,
            TaskInstance.state,
            TaskInstance.start_date,
            TaskInstance.try_number,
            Trigger.triggerer_id,
            Job.hostname,
            Job.latest_heartbeat,
            XComModel.value,
        )
        .outerjoin(Trigger, TaskInstance.trigger_id == Trigger.id)
        .outerjoin(Job, Job.id == Trigger.triggerer_id)
        .outerjoin(
            XComModel,
            and_(
                *(getattr(XComModel, column.key) == column for column in key), XComModel.key == announcement
            ),
        )
        .where(tuple_(*key).in_(list(of_key)))
    )
    for row in session.execute(query):
        stream = of_key[tuple(row[:4])]
        stream.state, stream.started, stream.tries, stream.triggerer_id = row[4:8]
        stream.triggerer, stream.beat, stream.announced = row[8:]


def _look_at_items(session: Session, found: list[StreamFound], failures_of: tuple[str, int] | None) -> None:
    key = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id)
    of_key: dict[Any, StreamFound] = {
        (stream.dag_id, stream.run_id, stream.mapped_task_id): stream for stream in found
    }
    first = case((TaskInstance.map_index == 0, 0), else_=1).label("first")
    tries, ended = null().label("tries"), type_coerce(null(), TaskInstance.end_date.type).label("ended")
    # Nearly all are a success, which are what is left of the committed ones: of the others the index tells.
    others = or_(TaskInstance.state.in_(BUT_SUCCESS), TaskInstance.state.is_(None))
    query: Any = (
        select(*key, first, TaskInstance.state, func.count().label("count"), tries, ended)
        .where(tuple_(*key).in_(list(of_key)), TaskInstance.map_index >= 0, others)
        .group_by(*key, first, TaskInstance.state)
    )
    called, most = failures_of or ("", 0)
    looked_at = [stream for stream in found if stream.mapped_task_id and stream.is_called(called)]
    if looked_at:  # in one union: SQLite has none within another
        query = union_all(query, *(select(_failed_items(key, one, most).subquery()) for one in looked_at))
    counts: dict[Any, dict[str, int]] = defaultdict(Counter)
    for *row, index, state, count, tries, ended in session.execute(query):
        stream = of_key[tuple(row)]
        if tries is not None:
            stream.failures.append(FailedItem(index, state, tries, ended))
        elif index >= stream.first_index:  # or it is the head
            counts[tuple(row)][state or "none"] += count
    for stream_key, items in counts.items():
        of_key[stream_key].items = items


def _failed_items(key: tuple[Any, ...], stream: StreamFound, most: int) -> Select[Any]:
    columns = (TaskInstance.map_index, TaskInstance.state, literal(1), TaskInstance.try_number)
    failed = (*item_instances(stream), TaskInstance.state.in_(("failed", "upstream_failed")))
    # Not by the column itself: in that order the database would go through all of them, if few have failed.
    in_order = select(*key, *columns, TaskInstance.end_date).order_by(TaskInstance.map_index + 0)
    return in_order.where(*failed).limit(most)


def item_instances(stream: StreamFound) -> tuple[Any, ...]:
    """Conditions: of a stream's items, without its head."""
    return (
        TaskInstance.dag_id == stream.dag_id,
        TaskInstance.run_id == stream.run_id,
        TaskInstance.task_id == stream.mapped_task_id,
        TaskInstance.map_index >= stream.first_index,
    )


def api_address() -> str:
    """Where Airflow's API is, for users."""
    return str(conf.get("api", "base_url", fallback="http://localhost:8080")).rstrip("/")
