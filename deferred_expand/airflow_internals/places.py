"""Places to run in that deferred tasks hold, as the scheduler counts them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import func, select

from deferred_expand.airflow_internals.instances import needs_no_worker

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from airflow.models.dagbag import DBDagBag
    from sqlalchemy.orm import Session

    from deferred_expand.airflow_internals.heads import Head

_DEFERRED = TaskInstance.state == "deferred"


def missing_places(session: Session, heads: Collection[Head], dags: DBDagBag) -> dict[Any, str]:
    """
    What keeps every item of a stream from running as long as deferred tasks stay deferred.

    A pool may count them, and ``max_active_tis_per_dag`` always does
    (airflow/jobs/scheduler_job_runner.py, ``_executable_task_instances_to_queued``).

    :return: for people, by the head's id; a stream whose items find a place is left out.
    """
    tasks = {head: _task(session, head, dags) for head in heads}
    running = {head: task for head, task in tasks.items() if task is None or not needs_no_worker(task)}
    return {**_held_limits(session, running), **_held_pools(session, running)}


def _task(session: Session, head: Head, dags: DBDagBag) -> Any:
    """The mapped one, of the serialized DAG; ``None`` where that is gone."""
    dag = dags.get_dag(head.dag_version_id, session=session) if head.dag_version_id else None
    return dag.get_task(head.task_id) if dag is not None and dag.has_task(head.task_id) else None


def _held_pools(session: Session, heads: Collection[Head]) -> dict[Any, str]:
    held = func.coalesce(func.sum(TaskInstance.pool_slots), 0)
    counted = (
        select(TaskInstance.pool, held.label("held")).where(_DEFERRED).group_by(TaskInstance.pool).subquery()
    )
    # An item takes as many slots as its head.
    found = session.execute(
        select(TaskInstance.id, Pool.pool, Pool.slots, counted.c.held)
        .join(Pool, Pool.pool == TaskInstance.pool)
        .join(counted, counted.c.pool == Pool.pool)
        .where(
            TaskInstance.id.in_([head.id for head in heads]),
            Pool.include_deferred,
            Pool.slots >= 0,  # -1: there is no limit
            Pool.slots - counted.c.held < TaskInstance.pool_slots,
        )
    )
    return {
        head_id: f"no slot in pool {pool!r}: deferred tasks hold {taken} of {slots}"
        for head_id, pool, slots, taken in found
    }


def _held_limits(session: Session, heads: Mapping[Head, Any]) -> dict[Any, str]:
    limited: dict[tuple[str, str], list[tuple[Any, int]]] = defaultdict(list)
    for head, task in heads.items():
        if task is not None and task.max_active_tis_per_dag is not None:
            limited[head.dag_id, head.task_id].append((head.id, task.max_active_tis_per_dag))
    missing = {}
    for (dag_id, task_id), found in limited.items():
        of_task = (TaskInstance.dag_id == dag_id, TaskInstance.task_id == task_id, _DEFERRED)
        held = session.scalar(select(func.count()).where(*of_task)) or 0
        for head_id, limit in found:
            if held >= limit:
                missing[head_id] = f"max_active_tis_per_dag={limit}, and {held} runs hold their stream open"
    return missing
