"""Task instances of a mapped task, made as the scheduler makes them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from airflow import settings
from airflow._shared.observability.traces import new_task_run_carrier
from airflow._shared.timezones.timezone import utcnow
from airflow.models.taskinstance import TaskInstance
from airflow.task.priority_strategy import get_airflow_priority_weight_strategies
from airflow.ti_deps.dep_context import DepContext
from airflow.utils.state import State
from sqlalchemy import LargeBinary, insert, literal, select, update
from sqlalchemy.engine.default import DefaultDialect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

IN_BULK = 500  # instances in one statement
ONE_BY_ONE = 100  # instances between two statements, where policies may take their time with each


def make_instances(
    session: Session,
    task: Any,
    run: DagRun,
    dag_version_id: Any,
    indexes: Sequence[int],
    progress: Callable[[], None],
) -> None:
    """
    Make what ``TaskMap.expand_mapped_task`` makes (airflow/models/taskmap.py) for these map indexes.

    :param task: the mapped one, of the serialized DAG.
    :param progress: called now and then.
    """
    one_by_one = each_may_differ(task)
    step = ONE_BY_ONE if one_by_one else IN_BULK
    for start in range(0, len(indexes), step):
        part = indexes[start : start + step]
        if one_by_one:
            session.add_all([_make_instance(task, run, dag_version_id, index) for index in part])
            session.flush()
        else:
            _insert_alike(session, _make_instance(task, run, dag_version_id, part[0]), run, part)
        progress()


def needs_no_worker(task: Any) -> bool:
    """
    Whether the items of a task over a stream are a success without being run.

    :param task: of the serialized DAG, in which :func:`.mapping.spare_workers` has left this.
    """
    return bool(task.inherits_from_empty_operator)


def succeed(session: Session, task: Any, *instances: Any) -> int:
    """
    Do what ``DagRun.schedule_tis`` does with an ``EmptyOperator`` (airflow/models/dagrun.py).

    Instances that may not start yet, or of which one may and another not, are left to the scheduler.

    :param instances: which ones of the task in one run, as conditions; those that have a state are let be.
    :return: how many are a success now.
    """
    unset = (*instances, TaskInstance.state.is_(None))
    first = session.scalar(select(TaskInstance).where(*unset).order_by(TaskInstance.map_index).limit(1))
    if first is None or _differ_in_dependencies(task) or not _may_start(session, task, first):
        return 0
    now = utcnow()
    succeeded = session.execute(
        update(TaskInstance)
        .where(*unset)
        .values(
            state="success", start_date=now, end_date=now, duration=0, try_number=TaskInstance.try_number + 1
        )
        .execution_options(synchronize_session=False)
    )
    return int(succeeded.rowcount)  # type: ignore[attr-defined]


def _differ_in_dependencies(task: Any) -> bool:
    """A mapped branch skips instances by their index (airflow/ti_deps/deps/not_previously_skipped_dep.py)."""
    return any(parent.inherits_from_skipmixin and parent.is_mapped for parent in task.upstream_list)


def _may_start(session: Session, task: Any, instance: TaskInstance) -> bool:
    """As ``DagRun._get_ready_tis`` asks, which looks at all that has finished in the run."""
    parents = task.upstream_task_ids | {setup.task_id for setup in task.get_upstreams_only_setups()}
    finished = session.scalars(
        select(TaskInstance).where(
            TaskInstance.dag_id == instance.dag_id,
            TaskInstance.run_id == instance.run_id,
            TaskInstance.task_id.in_(parents),
            TaskInstance.state.in_(State.finished),
        )
    ).all()
    for one in (instance, *finished):
        one.task = task.dag.get_task(one.task_id)
    context = DepContext(ignore_unmapped_tasks=True, finished_tis=list(finished))
    return instance.are_dependencies_met(dep_context=context, session=session)


def each_may_differ(task: Any) -> bool:
    """
    Whether code that is not Airflow's looks at each instance, which may then differ from the others.

    A hook that is not set has a mark that says so (airflow/settings.py; read by
    ``DagRun.verify_integrity``). Airflow's own weight rules look only at the task
    (airflow/task/priority_strategy.py).
    """
    hook_is_set = not getattr(settings.task_instance_mutation_hook, "is_noop", False)
    return hook_is_set or type(task.weight_rule) not in get_airflow_priority_weight_strategies().values()


def _make_instance(task: Any, run: DagRun, dag_version_id: Any, index: int) -> TaskInstance:
    instance = TaskInstance(task, run_id=run.run_id, map_index=index, dag_version_id=dag_version_id)
    instance.context_carrier = new_task_run_carrier(run.context_carrier)
    # Calls task_instance_mutation_hook, from 3.3 on with the run.
    instance.refresh_from_task(task, **({"dag_run": run} if _HOOK_TAKES_RUN else {}))
    return instance


def _insert_alike(session: Session, instance: TaskInstance, run: DagRun, indexes: Sequence[int]) -> None:
    """All as this one, but for map index, context carrier and id, which the column gives."""
    values = {_COLUMNS[name]: value for name, value in vars(instance).items() if name in _COLUMNS}
    del values["id"]
    pickle: Any = _TABLE.c.executor_config.type.bind_processor(DefaultDialect())
    executor_config = literal(pickle(values.pop("executor_config")), LargeBinary())  # once, not for each
    session.connection().execute(
        insert(_TABLE).values(executor_config=executor_config),
        [
            {**values, "map_index": index, "context_carrier": new_task_run_carrier(run.context_carrier)}
            for index in indexes
        ],
    )


_HOOK_TAKES_RUN = "dag_run" in inspect.signature(TaskInstance.refresh_from_task).parameters
_TABLE = TaskInstance.__table__
_COLUMNS = {attribute.key: attribute.columns[0].name for attribute in TaskInstance.__mapper__.column_attrs}
