"""What the expander reads and writes of a stream in the metadata database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics.stats import Stats
from airflow._shared.timezones.timezone import utcnow
from airflow.models import dagbag
from airflow.models.dag import DagModel
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select, update

from deferred_expand.airflow_internals.instances import make_instances, needs_no_worker, succeed
from deferred_expand.airflow_internals.locks import bound_waits
from deferred_expand.airflow_internals.places import missing_places

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from deferred_expand.airflow_internals.heads import Head

DAGS_KEPT = 64  # versions of DAGs
LONGEST_LABEL = 250  # characters, of the column


def dag_cache() -> DBDagBag:
    """
    Serialized DAGs by their version, the least used of which are forgotten.

    Airflow's bag keeps every version for ever, unless it is told how many: up to 3.2 itself
    (airflow/models/dagbag.py, ``DBDagBag``), since 3.3 in a subclass (``CachedDBDagBag``).
    """
    options: dict[str, Any] = {"load_op_links": False, "cache_size": DAGS_KEPT}
    cached_bag: Any = getattr(dagbag, "CachedDBDagBag", None)
    if cached_bag is None:
        return DBDagBag(**options)
    bag: DBDagBag = cached_bag(**options, cache_ttl=0, stats_prefix="deferred_expand.dag_bag")
    return bag


class StreamRecords:
    """
    The rows of one stream in one transaction: its head, XComs, mapped length and instances.

    :param dags: keeps serialized DAGs between transactions.
    :param progress: called now and then, while many instances are made.
    """

    def __init__(self, session: Session, head: Head, dags: DBDagBag, progress: Callable[[], None]) -> None:
        self._session = session
        self._head = head
        self._dags = dags
        self._progress = progress

    def lock(self, triggerer_id: int) -> DagRun | None:
        """
        Keep everyone else from this stream until the transaction ends.

        Waits for nobody who holds these rows: who finds them locked comes again. The trigger's
        assignment, locked as well, is the fence: who was taken over from can commit nothing.

        :return: ``None`` when the stream is not for this triggerer to commit, or not now: its head
            is locked or no longer deferred, its trigger has moved, its run is over, its DAG is
            paused or gone.
        """
        head = self._head
        bound_waits(self._session)
        locked = (
            select(TaskInstance.id)
            .join(Trigger, TaskInstance.trigger_id == Trigger.id)
            .where(
                TaskInstance.id == head.id,
                TaskInstance.state == "deferred",
                Trigger.id == head.trigger_id,
                Trigger.triggerer_id == triggerer_id,
            )
            .with_for_update(of=(TaskInstance, Trigger), skip_locked=True, key_share=True)
        )
        if self._session.scalar(locked) is None:
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

    def fail_skipped_head(self, label: str) -> bool:
        """:return: whether the head was skipped; it is not tried again."""
        bound_waits(self._session)
        failed = self._session.execute(
            update(TaskInstance)
            .where(TaskInstance.id == self._head.id, TaskInstance.state == "skipped")
            .values(state="failed", _rendered_map_index=label[:LONGEST_LABEL])
            .execution_options(synchronize_session=False)
        )
        return bool(failed.rowcount)  # type: ignore[attr-defined]

    def missing_place(self) -> str | None:
        """What keeps every item of the stream from running, as :func:`missing_places` says."""
        return missing_places(self._session, [self._head], self._dags).get(self._head.id)

    def create_instances(self, run: DagRun, first: int, last: int) -> int:
        """
        Make the instances with these map indexes that do not exist.

        :return: how many.
        """
        existing = set(self._session.scalars(select(TaskInstance.map_index).where(*self._items(first, last))))
        missing = [index for index in range(first, last + 1) if index not in existing]
        if not missing:
            return 0
        task = self._task(run)
        make_instances(self._session, task, run, self._head.dag_version_id, missing, self._progress)
        self._succeed_what_needs_no_worker(task, first, last)
        return len(missing)

    def restore_removed(self, run: DagRun, last: int) -> int:
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
        if restored.rowcount:  # type: ignore[attr-defined]
            self._succeed_what_needs_no_worker(self._task(run), 1, last)
        return int(restored.rowcount)  # type: ignore[attr-defined]

    def _task(self, run: DagRun) -> Any:
        """The mapped one."""
        return self._dag(run).get_task(self._head.task_id)

    def _dag(self, run: DagRun) -> Any:
        """The serialized one."""
        dag = self._dags.get_dag_for_run(dag_run=run, session=self._session)
        if dag is None:
            raise LookupError(f"the serialized DAG {run.dag_id!r} of run {run.run_id!r} is not to be found")
        return dag

    def _succeed_what_needs_no_worker(self, task: Any, first: int, last: int) -> None:
        if needs_no_worker(task):
            succeed(self._session, task, *self._items(first, last))

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
