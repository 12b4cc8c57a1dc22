"""Task instances of a mapped task group, made by the expander with the run locked."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.serialization.definitions.taskgroup import SerializedMappedTaskGroup
from sqlalchemy import or_, select, update

from deferred_expand.airflow_internals.instances import make_instances
from deferred_expand.airflow_internals.locks import LONGEST_WAIT, bound_waits
from deferred_expand.airflow_internals.metadata import StreamRecords, create_session
from deferred_expand.exceptions import StreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.orm import Session

    from deferred_expand.airflow_internals.heads import Head
    from deferred_expand.airflow_internals.metadata import DBDagBag


@contextmanager
def locked_run(head: Head, wait: float | None) -> Iterator[Session | None]:
    """
    A transaction that keeps the scheduler out of the head's run.

    It examines a run only with this lock, and leaves locked ones out (airflow/models/dagrun.py,
    ``get_running_dag_runs_to_examine``; models/taskinstance.py, ``schedule_downstream_tasks``). So no pass
    reads one length, and then another: of a group that would start a task before the one it waits for, or
    take its state from another index (ti_deps/deps/trigger_rule_dep.py, ``_get_relevant_map_indexes``).

    The lock comes first, whoever clears tasks takes it last; what is locked besides is not waited for.

    :param wait: seconds to wait for it in line; ``None``: not at all.
    :return: ``None``: others hold it.
    """
    with create_session(scoped=False) as session:
        bound_waits(session, LONGEST_WAIT if wait is None else wait)
        row = (
            select(DagRun.id)
            .where(DagRun.dag_id == head.dag_id, DagRun.run_id == head.run_id)
            .with_for_update(of=DagRun, key_share=True, skip_locked=wait is None)
        )
        yield session if session.scalar(row) is not None else None


@dataclass(frozen=True)
class _Missing:
    """
    What a task of the group lacks.

    :param first: of its instances is the one that Airflow has left unexpanded.
    """

    task_id: str
    indexes: list[int]
    first: bool


class GroupRecords(StreamRecords):
    """
    The same of a stream that a task group is expanded over, within a locked run.

    :ivar made: task instances so far.
    """

    made = 0

    def grow_group(self, run: DagRun, task_id: str, group_id: str, first: int, last: int) -> None:
        """
        Set the length that all tasks of the group have, and make what instances are missing.

        A task whose only instance has map index -1 and has ended, as something outside the group made it, is
        left alone: natively that is its end.

        :param task_id: of the unmapped task.
        :param first: map index from which on they may be missing.
        :param last: the one after the last.
        """
        self._set_length(run, task_id, last)
        tasks = self._tasks_of(run, group_id)
        for missing in self._find_missing(list(tasks), first, last):
            if missing.first:
                self._begin(missing.task_id)
            self.made += missing.first + len(missing.indexes)
            if missing.indexes:
                make_instances(
                    self._session,
                    tasks[missing.task_id],
                    run,
                    self._head.dag_version_id,
                    missing.indexes,
                    self._progress,
                )
        self._restore(list(tasks), last)

    def tasks_in(self, run: DagRun, group_id: str) -> int:
        """How many tasks the group has."""
        return max(1, len(self._tasks_of(run, group_id)))

    def _set_length(self, run: DagRun, task_id: str, length: int) -> None:
        key = (run.dag_id, task_id, run.run_id, -1)
        if self._session.get(TaskMap, key) is None:
            row = TaskMap(
                dag_id=run.dag_id, task_id=task_id, run_id=run.run_id, map_index=-1, length=length, keys=None
            )
            self._session.add(row)
            self._session.flush()
        else:
            self.grow(task_id, length)

    def _tasks_of(self, run: DagRun, group_id: str) -> dict[str, Any]:
        dag: Any = self._dag(run)
        group = dag.task_group.get_task_group_dict().get(group_id)
        if not isinstance(group, SerializedMappedTaskGroup):
            raise StreamError(
                f"task group {group_id!r} of DAG {run.dag_id!r}, run {run.run_id!r}, is gone from the DAG, "
                "or is not expanded any more: put it back, or clear the stream with its downstream"
            )
        return {task.task_id: task for task in group.iter_tasks()}

    def _find_missing(self, task_ids: list[str], first: int, last: int) -> Iterator[_Missing]:
        found: dict[str, dict[int, str | None]] = {task_id: {} for task_id in task_ids}
        rows = self._session.execute(
            select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state).where(
                *self._of(task_ids),
                or_(TaskInstance.map_index == -1, TaskInstance.map_index.between(first, last - 1)),
            )
        )
        for task_id, index, state in rows:
            found[task_id][index] = state
        for task_id, states in found.items():
            if states.get(-1, "expanded") not in ("expanded", None):
                continue
            if -1 not in states:
                yield _Missing(task_id, [n for n in range(first, last) if n not in states], first=False)
                continue
            # Cleared after it had ended unexpanded: nothing else of it is there.
            yield _Missing(task_id, list(range(1, last)), first=True)

    def _begin(self, task_id: str) -> None:
        """As ``TaskMap.expand_mapped_task`` does (airflow/models/taskmap.py)."""
        self._session.execute(
            update(TaskInstance)
            .where(*self._of([task_id]), TaskInstance.map_index == -1, TaskInstance.state.is_(None))
            .values(map_index=0)
            .execution_options(synchronize_session=False)
        )

    def _restore(self, task_ids: list[str], last: int) -> None:
        """What a shorter stream had left over before."""
        self._session.execute(
            update(TaskInstance)
            .where(
                *self._of(task_ids),
                TaskInstance.map_index.between(0, last - 1),
                TaskInstance.state == "removed",
            )
            .values(state=None)
            .execution_options(synchronize_session=False)
        )

    def _of(self, task_ids: list[str]) -> tuple[Any, ...]:
        return (
            TaskInstance.dag_id == self._head.dag_id,
            TaskInstance.run_id == self._head.run_id,
            TaskInstance.task_id.in_(task_ids),
        )
