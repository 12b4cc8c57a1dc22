"""What an unmapped task gets to know while its DAG is parsed, and the length that it gives a mapped one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.definitions._internal.abstractoperator import AbstractOperator
from airflow.sdk.definitions._internal.contextmanager import DagContext
from airflow.sdk.definitions.mappedoperator import MappedOperator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk.definitions._internal.mixins import DependencyMixin


class ParsedOperator(BaseOperator):
    """An operator that is asked where its edges begin, and told when its DAG is complete."""

    _edge_from: BaseOperator

    def edge_to(self, other: AbstractOperator) -> BaseOperator:
        """
        The task at which an edge to another task shall begin: this one, or one in its stead.

        A mapped operator comes by as soon as it is made, by the references that it is given.
        """
        return self

    def when_parsed(self) -> None:
        """All tasks and edges of the DAG are known."""

    def update_relative(
        self, other: DependencyMixin, upstream: bool = True, edge_modifier: Any = None
    ) -> None:
        """
        Called for each edge, right before :attr:`leaves` or ``roots`` is read
        (airflow/sdk/definitions/_internal/node.py, ``_set_relatives``).
        """
        super().update_relative(other, upstream, edge_modifier)
        self._edge_from = self
        if not upstream and isinstance(other, AbstractOperator):
            self._edge_from = self.edge_to(other)

    @property
    def leaves(self) -> list[BaseOperator]:
        return [self._edge_from]

    def resolve_template_files(self) -> None:
        """The last that the DAG parser asks of every task (airflow/dag_processing/dagbag.py)."""
        super().resolve_template_files()
        self.when_parsed()


@contextmanager
def executing(operator: BaseOperator) -> Iterator[None]:
    """As the task runner does it: an operator that is executed by others warns, or raises."""
    token = ExecutorSafeguard.tracker.set(operator)
    try:
        yield
    finally:
        ExecutorSafeguard.tracker.reset(token)


def template_texts(task: AbstractOperator) -> Iterator[tuple[str, str]]:
    """Each template field with each text in it, as the author wrote it."""
    given = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
    waiting = [(field, given.get(field)) for field in task.template_fields]
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, (list, tuple, set)):
            waiting.extend((field, element) for element in value)
        elif isinstance(value, dict):
            waiting.extend((field, element) for element in value.values())


def read_template_files(
    task: BaseOperator, operator: type[BaseOperator], arguments: dict[str, Any]
) -> dict[str, Any]:
    """
    An operator's arguments with the text of a file in the place of its name, where the operator's own
    template fields may name one (airflow/sdk/definitions/_internal/templater.py, ``resolve_template_files``).

    :param task: whose DAG says where files lie.
    :raises TemplateNotFound: a file is not there.
    """
    extensions = tuple(operator.template_ext)

    def read(value: Any) -> Any:
        if isinstance(value, str) and value.endswith(extensions):
            environment = task.get_template_env()
            return environment.loader.get_source(environment, value)[0]  # type: ignore[union-attr]
        return [read(element) for element in value] if isinstance(value, list) else value

    fields = set(operator.template_fields) if extensions else set()
    return {name: read(value) if name in fields else value for name, value in arguments.items()}


def current_dag_id() -> str | None:
    """Of the DAG that the code of a DAG file is within."""
    dag = DagContext.get_current_dag()
    return None if dag is None else dag.dag_id


def free_task_id(whole: BaseOperator, name: str) -> str:
    """A task id that says what it is a part of; within its task group, whose prefix comes by itself."""
    prefix = whole.task_id.removesuffix(str(whole.label))
    found, number = f"{whole.label}.{name}", 1
    while prefix + found in whole.dag.task_dict:
        number += 1
        found = f"{whole.label}.{name}_{number}"
    return found


class MappableValue(list[Any]):
    """
    What a task returns for others to be mapped over: one JSON object, of the length that they shall have.

    The SDK stores ``len()`` of what it pushes as the mapped length
    (airflow/sdk/execution_time/task_runner.py, ``_push_xcom_if_needed``).
    """

    def __init__(self, description: dict[str, Any], mapped_length: int) -> None:
        super().__init__([description])
        self._mapped_length = mapped_length

    def __len__(self) -> int:
        return self._mapped_length
