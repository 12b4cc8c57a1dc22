"""What the expander reads and writes of a stream in the metadata database."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics.stats import Stats
from airflow._shared.observability.traces import new_task_run_carrier
from airflow._shared.timezones.timezone import utcnow
from airflow.models.dag import DagModel
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import with_row_locks
from sqlalchemy import select, text, update

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from deferred_expand.airflow_internals.heads import Head

LONGEST_STANDSTILL = 10  # seconds between two statements of a transaction
FLUSH_EVERY = 100  # instances
LONGEST_LABEL = 250  # characters, of the column


class StreamRecords:
    """
    The rows of one stream in one transaction: its head, XComs, mapped length and instances.

    :param dags: keeps serialized DAGs between transactions.
    """

    def __init__(self, session: Session, head: Head, dags: DBDagBag) -> None:
        self._session = session
        self._head = head
        self._dags = dags

    def lock(self, triggerer_id: int) -> DagRun | None:
        """
        Keep everyone else from this stream until the transaction ends.

        The update comes first: it takes the row's lock, and on SQLite, which has no row locks, the
        whole database's. The trigger's assignment, locked as well, is the fence: who was taken over
        from can commit nothing.

        :return: ``None`` when the stream is not for this triggerer to commit, or not now: its head
            is no longer deferred, its trigger has moved, its run is over, its DAG is paused or gone.
        """
        head = self._head
        if self._session.get_bind().dialect.name == "postgresql":
            # A process that stands still in here must not keep others from going on for it.
            timeout = text(f"SET LOCAL idle_in_transaction_session_timeout = '{LONGEST_STANDSTILL}s'")
            self._session.execute(timeout)
        still_deferred = self._session.execute(
            update(TaskInstance)
            .where(
                TaskInstance.id == head.id,
                TaskInstance.state == "deferred",
                TaskInstance.trigger_id == head.trigger_id,
            )
            .values(updated_at=utcnow())
            .execution_options(synchronize_session=False)
        )
        assigned = with_row_locks(
            select(Trigger.id).where(Trigger.id == head.trigger_id, Trigger.triggerer_id == triggerer_id),
            self._session,
            of=Trigger,
        )
        if not still_deferred.rowcount or self._session.scalar(assigned) is None:  # type: ignore[attr-defined]
            return None
        return self._session.scalar(
            select(DagRun)
            .join(DagModel, DagModel.dag_id == DagRun.dag_id)
            .where(
                DagRun.dag_id == head.dag_id,
                DagRun.run_id == head.run_id,
                DagRun.state == "running",
                DagModel.is_paused.is_(False),
                DagModel.is_stale.is_(False),
            )
        )

    def read(self, key: str, task_id: str, map_index: int) -> Any:
        """The value of an XCom as it is stored, or ``None``."""
        return self._session.scalar(select(XComModel.value).where(*self._xcom(key, task_id, map_index)))

    def write(self, run: DagRun, key: str, task_id: str, value: Any) -> None:
        """Write an XCom of an unmapped task, past the XCom backend."""
        existing = self._session.execute(
            update(XComModel)
            .where(*self._xcom(key, task_id, -1))
            .values(value=value, timestamp=utcnow())
            .execution_options(synchronize_session=False)
        )
        if not existing.rowcount:  # type: ignore[attr-defined]
            row = XComModel(
                dag_run_id=run.id,
                dag_id=run.dag_id,
                run_id=run.run_id,
                task_id=task_id,
                map_index=-1,
                key=key,
                value=value,
            )
            self._session.add(row)

    def grow(self, task_id: str, length: int) -> None:
        """Set the mapped length that the unmapped task has pushed; it never becomes less."""
        self._session.execute(
            update(TaskMap)
            .where(
                TaskMap.dag_id == self._head.dag_id,
                TaskMap.task_id == task_id,
                TaskMap.run_id == self._head.run_id,
                TaskMap.map_index == -1,
                TaskMap.length < length,
            )
            .values(length=length)
            .execution_options(synchronize_session=False)
        )

    def label_head(self, label: str) -> None:
        self._session.execute(
            update(TaskInstance)
            .where(TaskInstance.id == self._head.id)
            .values(_rendered_map_index=label[:LONGEST_LABEL])
            .execution_options(synchronize_session=False)
        )

    def exhausted_pool(self) -> str | None:
        """The pool that the deferred head leaves no place in for an item, if it is one that counts it."""
        return self._session.scalar(
            select(Pool.pool)
            .join(TaskInstance, TaskInstance.pool == Pool.pool)
            .where(
                TaskInstance.id == self._head.id,
                Pool.include_deferred,
                Pool.slots.between(0, 2 * TaskInstance.pool_slots - 1),
            )
        )

    def create_instances(self, run: DagRun, first: int, last: int) -> int:
        """
        Make the instances with these map indexes that do not exist.

        They are what ``TaskMap.expand_mapped_task`` makes (airflow/models/taskmap.py), in one go.

        :return: how many.
        """
        existing = set(self._session.scalars(select(TaskInstance.map_index).where(*self._items(first, last))))
        missing = [index for index in range(first, last + 1) if index not in existing]
        if not missing:
            return 0
        dag = self._dags.get_dag_for_run(dag_run=run, session=self._session)
        if dag is None:
            raise LookupError(f"the serialized DAG {run.dag_id!r} of run {run.run_id!r} is not to be found")
        task = dag.get_task(self._head.task_id)
        for number, instance in enumerate(self._new_instances(task, run, missing), 1):
            self._session.add(instance)
            if number % FLUSH_EVERY == 0:  # the policies of many instances may take their time
                self._session.flush()
        return len(missing)

    def _new_instances(self, task: Any, run: DagRun, indexes: Iterable[int]) -> Iterable[TaskInstance]:
        for index in indexes:
            instance = TaskInstance(
                task, run_id=run.run_id, map_index=index, dag_version_id=self._head.dag_version_id
            )
            instance.context_carrier = new_task_run_carrier(run.context_carrier)
            # Calls task_instance_mutation_hook, from 3.3 on with the run.
            instance.refresh_from_task(task, **({"dag_run": run} if _HOOK_TAKES_RUN else {}))
            yield instance

    def restore_removed(self, last: int) -> int:
        """
        Give item instances back to the scheduler that it marked REMOVED although they are committed.

        It reads the length and the existing indexes one after the other (airflow/models/dagrun.py,
        ``_revise_map_indexes_if_mapped``) and takes for surplus what is committed in between; as
        ``verify_integrity`` does when a removed task comes back, their state is unset.
        """
        restored = self._session.execute(
            update(TaskInstance)
            .where(*self._items(1, last), TaskInstance.state == "removed")
            .values(state=None)
            .execution_options(synchronize_session=False)
        )
        return int(restored.rowcount)  # type: ignore[attr-defined]

    def _items(self, first: int, last: int) -> tuple[Any, ...]:
        return (
            TaskInstance.dag_id == self._head.dag_id,
            TaskInstance.task_id == self._head.task_id,
            TaskInstance.run_id == self._head.run_id,
            TaskInstance.map_index.between(first, last),
        )

    def _xcom(self, key: str, task_id: str, map_index: int) -> tuple[Any, ...]:
        return (
            XComModel.dag_id == self._head.dag_id,
            XComModel.task_id == task_id,
            XComModel.run_id == self._head.run_id,
            XComModel.map_index == map_index,
            XComModel.key == key,
        )


_HOOK_TAKES_RUN = "dag_run" in inspect.signature(TaskInstance.refresh_from_task).parameters
