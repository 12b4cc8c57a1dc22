"""Task instances of a mapped task, made as the scheduler makes them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from airflow import settings
from airflow._shared.observability.traces import new_task_run_carrier
from airflow.models.taskinstance import TaskInstance
from airflow.task.priority_strategy import get_airflow_priority_weight_strategies
from sqlalchemy import LargeBinary, insert, literal
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
