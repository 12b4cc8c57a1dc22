"""Streams and tasks over them, for the tests of what a DAG looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.serialization.serialized_objects import DagSerialization

from deferred_expand import DeferredExpandOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator

if TYPE_CHECKING:
    from airflow.sdk import DAG


def stream(task_id: str = "users", **arguments: Any) -> DeferredExpandOperator:
    given: dict[str, Any] = {"source": sources.numbers, "source_kwargs": {"count": 3}, **arguments}
    return DeferredExpandOperator(task_id=task_id, **given)


def expand(task_id: str, over: Any) -> Any:
    return EchoOperator.partial(task_id=task_id).expand(value=over)


def edges(dag: DAG) -> set[str]:
    """As the scheduler sees them."""
    dag.resolve_template_files()
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    return {f"{task.task_id} > {other}" for task in read.tasks for other in task.downstream_task_ids}


def length_from(dag: DAG, task_id: str) -> set[str]:
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    return {parent.task_id for parent in read.get_task(task_id).iter_mapped_dependencies()}
