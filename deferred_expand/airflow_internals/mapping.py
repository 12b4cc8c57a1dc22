"""What a mapped operator is expanded over, and one whose first instance is another operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from airflow.sdk import BaseOperator
from airflow.sdk.bases.decorator import DecoratedMappedOperator
from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput, MappedArgument
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.taskgroup import MappedTaskGroup
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.execution_time.context import context_update_for_unmapped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from airflow.sdk.definitions._internal.abstractoperator import AbstractOperator

OperatorT = TypeVar("OperatorT", bound=BaseOperator)


Expanded: TypeAlias = MappedOperator | MappedTaskGroup


def _expand_input(expanded: Expanded) -> Any:
    if isinstance(expanded, MappedOperator):
        return expanded._get_specified_expand_input()
    return expanded._expand_input


def expanded_over(expanded: Expanded) -> dict[str | None, Any]:
    """What is expanded over, by argument; with ``None`` for a name where one value gives all."""
    expand_input = _expand_input(expanded)
    if isinstance(expand_input, DictOfListsExpandInput):
        return dict[str | None, Any](expand_input.value.items())
    return {None: expand_input.value}


def expand_over(expanded: Expanded, name: str | None, value: Any) -> None:
    """Replace one of these."""
    expand_input = _expand_input(expanded)
    if isinstance(expand_input, DictOfListsExpandInput):
        expand_input.value[str(name)] = value
    else:
        expand_input.value = value


def is_expanded_over(expanded: Expanded, operator: BaseOperator) -> bool:
    """Whether a task or group is expanded over what the operator returns, or over something made of it."""
    return _refers(_expand_input(expanded), operator)


def reads(task: AbstractOperator, operator: BaseOperator) -> bool:
    """Whether a task is given what the operator returns as an ordinary argument."""
    return any(True for _ in references(task, operator))


def references(task: AbstractOperator, operator: BaseOperator) -> Iterator[Any]:
    """
    What a task is given, among its ordinary arguments, that refers to what the operator returns.

    The argument of a mapped task group is none of them.
    """
    if isinstance(task, MappedOperator):
        arguments: list[Any] = [task.partial_kwargs]
    else:
        arguments = [getattr(task, field, None) for field in task.template_fields]
    while arguments:
        # As ``XComArg.iter_xcom_references`` looks for them (airflow/sdk/definitions/xcom_arg.py).
        value = arguments.pop()
        if isinstance(value, (list, tuple, set)):
            arguments.extend(value)
        elif isinstance(value, dict):
            arguments.extend(value.values())
        elif not isinstance(value, MappedArgument) and _refers(value, operator):
            yield value


def _refers(value: Any, operator: BaseOperator) -> bool:
    return any(found is operator for found, _ in XComArg.iter_xcom_references(value))


class HeadedMapping:
    """
    Mixed into Airflow's mapped operators: the instance with map index 0 is another operator.

    It adds no state, so that :func:`become` can make it of an instance.
    """

    __slots__ = ()

    def make_head(self) -> BaseOperator:
        """The operator with map index 0."""
        raise NotImplementedError

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """
        Unmap: the task runner calls this to turn the mapped task into what it will execute.

        The head has none of the author's template fields, so it is made and rendered apart.
        """
        if context["ti"].map_index != 0:
            super().render_template_fields(context, jinja_env)  # type: ignore[misc]
            return
        head = self.make_head()
        context_update_for_unmapped(context, head)
        head.render_template_fields(context, jinja_env)

    def _expand_mapped_kwargs(self, context: Any) -> tuple[Mapping[str, Any], set[int]]:
        # Values that are named here are not rendered as templates. Airflow leaves out what comes
        # through expand_kwargs (airflow/sdk/definitions/_internal/expandinput.py); an item is data.
        kwargs, resolved = super()._expand_mapped_kwargs(context)  # type: ignore[misc]
        values = kwargs.get("op_kwargs", kwargs) if isinstance(self, DecoratedMappedOperator) else kwargs
        over = expanded_over(self)  # type: ignore[arg-type]
        data = {name for name, value in over.items() if isinstance(value, XComArg)}
        items = {id(value) for name, value in values.items() if None in data or name in data}
        return kwargs, resolved | items


def become(mapped: MappedOperator, classic: type[MappedOperator], decorated: type[MappedOperator]) -> None:
    """
    Make an ordinary mapped operator one with a head.

    The object stays the same one, which its author, the DAG and the task group already hold; only
    its class changes, to a subclass with the same layout.
    """
    mapped.__class__ = decorated if isinstance(mapped, DecoratedMappedOperator) else classic
    # The scheduler would mark the head of a mapped EmptyOperator successful without running it, and
    # would start the author's trigger in place of the head (airflow/models/dagrun.py, schedule_tis).
    mapped._is_empty = False
    mapped.start_from_trigger = False


def spare_workers(mapped: MappedOperator) -> None:
    """
    Mark a mapped task with a head whose items need not run: an ``EmptyOperator`` with nothing to tell.

    The scheduler makes instances of such a task a success instead of scheduling them, the head among
    them (airflow/models/taskinstance.py, ``is_task_schedulable``). A callback keeps it from that; so in
    the serialized DAG ``_is_empty`` is left for the expander, which makes the items what the scheduler
    would.

    Call it when the DAG is complete, again does no harm: callbacks may be set until then.
    """
    calls_back = mapped.has_on_execute_callback or mapped.has_on_success_callback
    # Of the class itself; of any other operator's class it is a property.
    is_empty = getattr(mapped.operator_class, "inherits_from_empty_operator", None) is True
    if is_empty and not (calls_back or mapped.inlets or mapped.outlets):
        mapped._is_empty = True
        mapped.on_execute_callback = [_has_a_head]


def _has_a_head(context: Any) -> None:
    """Does nothing, for an item that is cleared and so runs on a worker."""


def make_unmapped(
    mapped: MappedOperator, operator_class: type[OperatorT], keep: Collection[str], /, **arguments: Any
) -> OperatorT:
    """
    An operator in a mapped task's place, as ``MappedOperator.unmap`` makes one
    (airflow/sdk/definitions/mappedoperator.py).

    :param keep: arguments of the mapped task that it shares.
    """
    operator = operator_class(
        task_id=mapped.task_id,
        dag=mapped.dag,
        task_group=mapped.task_group,
        _airflow_from_mapped=True,  # the DAG already has this task
        **{name: mapped.partial_kwargs[name] for name in keep if name in mapped.partial_kwargs},
        **arguments,
    )
    operator.upstream_task_ids = mapped.upstream_task_ids
    operator.downstream_task_ids = mapped.downstream_task_ids
    return operator
