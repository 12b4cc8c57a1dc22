"""Airflow's own database with open streams in it, without a running Airflow."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow import settings
from airflow.models.base import Base
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, task_group
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.db import synchronize_log_template
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select, update

from deferred_expand.airflow_internals.heads import Head, announced_heads
from deferred_expand.airflow_internals.mapping import spare_workers
from deferred_expand.committing.store import ANNOUNCEMENT_KEY, LOG_KEY, STREAM_KEY
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import Announcement, BatchEvent
from deferred_expand.streams.page import START
from tests.e2e.operators import EchoOperator
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

TRIGGERER = 1  # id of its job
USERS, INSERT, RUN_ID = "users", "insert", "run"
GROUP_TASKS = ("one", "two", "three")
DESCRIBED = {"stream_of": "my.sources:users", "mapped_task": INSERT}


@contextmanager
def metadata_database(kind: str, folder: Path) -> Iterator[str]:
    """
    Airflow's settings lead to a new database, with its tables.

    :param kind: ``"sqlite"`` or ``"postgresql"``.
    :return: its address.
    """
    with ExitStack() as servers:
        address = f"sqlite:///{folder}/airflow.db"
        if kind == "postgresql":
            address = servers.enter_context(postgres_server()).get_uri()
        with patch.dict(os.environ, {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address}):
            settings.configure_vars()
            settings.configure_orm()
            with create_session() as session:
                Base.metadata.create_all(session.get_bind())
                session.add(DagBundleModel(name="bundle"))
                synchronize_log_template(session=session)
            yield address
            settings.dispose_orm()


def write_dag(dag: DAG, session: Session) -> DagVersion:
    """As the DAG processor does; a version of its own each time that the DAG differs."""
    SerializedDAG.bulk_write_to_db("bundle", None, [dag], session=session)
    SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="bundle", session=session)
    session.flush()
    version = DagVersion.get_latest_version(dag.dag_id, session=session)
    assert version is not None
    return version


def begin_run(dag: DAG, session: Session) -> DagRun:
    """A run of the DAG, which is written as well."""
    version = write_dag(dag, session)
    serialized = SerializedDagModel.get_dag(dag.dag_id, session=session)
    assert serialized is not None
    run: DagRun = serialized.create_dagrun(
        run_id=RUN_ID,
        run_after=datetime(2026, 1, 1, tzinfo=timezone.utc),
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.TEST,
        state=DagRunState.RUNNING,
        session=session,
    )
    run.created_dag_version_id = version.id
    return run


@dataclass(frozen=True)
class OpenStream:
    """A stream whose head is deferred on a trigger of the :data:`TRIGGERER`."""

    dag_id: str

    @classmethod
    def begin(
        cls,
        dag_id: str,
        operator: type[BaseOperator] = EchoOperator,
        *,
        upstream: Callable[[], Any] | None = None,
        **mapped: Any,
    ) -> OpenStream:
        """
        :param operator: that is mapped.
        :param upstream: makes another task that it waits for.
        :param mapped: arguments of the mapped task.
        """
        with DAG(dag_id, schedule=None, is_paused_upon_creation=False) as dag:
            users = EmptyOperator(task_id=USERS)
            name = "value" if operator is EchoOperator else "doc"
            insert = operator.partial(task_id=INSERT, **mapped).expand(**{name: users.output})
            if upstream is not None:
                upstream() >> insert
            insert._is_empty = False
            spare_workers(insert)
        with create_session() as session:
            run = begin_run(dag, session)
            users_ti, head = (run.get_task_instance(task_id, session=session) for task_id in (USERS, INSERT))
            assert users_ti is not None
            assert head is not None
            trigger = Trigger(classpath="a.b", kwargs={})
            trigger.triggerer_id = TRIGGERER
            session.add(trigger)
            session.flush()
            users_ti.state = TaskInstanceState.SUCCESS
            head.map_index, head.state, head.try_number = 0, TaskInstanceState.DEFERRED, 1
            head.trigger_id = trigger.id
            session.add(TaskMap(dag_id, USERS, RUN_ID, -1, 1, None))
            write_xcom(session, run, LOG_KEY, USERS, -1, CommitLog("stream").to_json())
            write_xcom(session, run, STREAM_KEY, USERS, -1, {**DESCRIBED, "waiter": [INSERT, 0]})
        return cls(dag_id)

    def announce(self, board_id: str, *counts: int, first: int = 0) -> None:
        """What a trigger does for batches of these numbers of items."""
        event = BatchEvent("stream", "writer", first, counts, START)
        announcement = Announcement(board_id, USERS, 0.0, event).to_json()
        with create_session() as session:
            write_xcom(session, self.run(session), ANNOUNCEMENT_KEY, INSERT, 0, announcement)

    def head(self, session: Session) -> Head:
        heads = announced_heads(session, TRIGGERER, ANNOUNCEMENT_KEY)
        return next(head for head in heads if head.dag_id == self.dag_id)

    def run(self, session: Session) -> DagRun:
        found: DagRun = session.scalars(select(DagRun).where(DagRun.dag_id == self.dag_id)).one()
        return found

    def items(self) -> int:
        """How many are committed."""
        with create_session() as session:
            key = (XComModel.dag_id == self.dag_id, XComModel.key == LOG_KEY)
            return CommitLog.from_json(session.scalar(select(XComModel.value).where(*key)) or {}).items

    def rows(self) -> list[dict[str, Any]]:
        """The items' instances as they are in the database, by map index."""
        table = TaskInstance.__table__
        items = (table.c.dag_id == self.dag_id, table.c.task_id == INSERT, table.c.map_index > 0)
        chosen = select(table).where(*items)
        with create_session() as session:
            return [dict(row) for row in session.execute(chosen.order_by(table.c.map_index)).mappings()]


@dataclass(frozen=True)
class OpenGroup:
    """A stream over which a group of three tasks is expanded; its head is deferred, as above."""

    dag_id: str

    @classmethod
    def begin(cls, dag_id: str, items: int = 0, **default_args: Any) -> OpenGroup:
        """
        :param items: that are committed.
        :param default_args: of the group's tasks.
        """
        with DAG(dag_id, schedule=None, is_paused_upon_creation=False) as dag:
            users = EmptyOperator(task_id=USERS)
            users >> EmptyOperator(task_id=f"{USERS}.stream")

            @task_group(default_args=default_args)
            def group(x: Any) -> None:
                one, two, three = (EchoOperator(task_id=name, value=x) for name in GROUP_TASKS)
                one >> two >> three

            group.expand(x=users.output)
        stream = cls(dag_id)
        with create_session() as session:
            run = begin_run(dag, session)
            for task_id, state in ((USERS, "success"), (f"{USERS}.stream", "deferred")):
                instance = run.get_task_instance(task_id, session=session)
                assert instance is not None
                instance.state, instance.try_number = TaskInstanceState(state), 1
            assert instance is not None
            trigger = Trigger(classpath="a.b", kwargs={})
            trigger.triggerer_id = TRIGGERER
            session.add(trigger)
            session.flush()
            instance.trigger_id = trigger.id
            write_xcom(session, run, LOG_KEY, USERS, -1, CommitLog("stream", items=items).to_json())
        stream.announce()
        return stream

    def announce(self) -> None:
        """That there may be something to do."""
        announcement = Announcement("board", USERS, 0.0, BatchEvent.empty("stream"), "group").to_json()
        with create_session() as session:
            write_xcom(session, self.run(session), ANNOUNCEMENT_KEY, f"{USERS}.stream", -1, announcement)

    def commit(self, items: int) -> None:
        """So many are, in all."""
        log = replace(self.log(), items=items)
        with create_session() as session:
            write_xcom(session, self.run(session), LOG_KEY, USERS, -1, log.to_json())

    def log(self) -> CommitLog:
        with create_session() as session:
            key = (XComModel.dag_id == self.dag_id, XComModel.key == LOG_KEY)
            return CommitLog.from_json(session.scalar(select(XComModel.value).where(*key)) or {})

    def head(self) -> Head:
        with create_session() as session:
            heads = announced_heads(session, TRIGGERER, ANNOUNCEMENT_KEY)
            return next(head for head in heads if head.dag_id == self.dag_id)

    def run(self, session: Session) -> DagRun:
        found: DagRun = session.scalars(select(DagRun).where(DagRun.dag_id == self.dag_id)).one()
        return found

    def length(self) -> int | None:
        with create_session() as session:
            key = (TaskMap.dag_id == self.dag_id, TaskMap.task_id == USERS)
            return session.scalar(select(TaskMap.length).where(*key))

    def states(self) -> dict[str, dict[int, str | None]]:
        """Of each of the group's tasks, by map index."""
        found: dict[str, dict[int, str | None]] = {name: {} for name in GROUP_TASKS}
        with create_session() as session:
            columns = (TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state)
            of_group = (TaskInstance.dag_id == self.dag_id, TaskInstance.task_id.startswith("group."))
            for task_id, index, state in session.execute(select(*columns).where(*of_group)):
                found[task_id.removeprefix("group.")][index] = state
        return found

    def set_state(self, task: str, index: int, state: str | None) -> None:
        with create_session() as session:
            session.execute(
                update(TaskInstance)
                .where(
                    TaskInstance.dag_id == self.dag_id,
                    TaskInstance.task_id == f"group.{task}",
                    TaskInstance.map_index == index,
                )
                .values(state=state)
            )


def write_xcom(session: Session, run: DagRun, key: str, task_id: str, map_index: int, value: Any) -> None:
    place = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task_id, "map_index": map_index}
    row = session.scalar(select(XComModel).filter_by(key=key, **place))
    if row is None:
        row = XComModel(dag_run_id=run.id, key=key, value=value, **place)
    row.value = value
    row.timestamp = datetime.now(tz=timezone.utc)
    session.add(row)
