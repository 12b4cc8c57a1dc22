"""A mapped task whose instances are not one for each item: how many there are is its author's to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk.bases.decorator import DecoratedMappedOperator, _TaskDecorator
from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput, ListOfDictsExpandInput
from airflow.sdk.definitions.mappedoperator import (
    MappedOperator,
    OperatorPartial,
    ensure_xcomarg_return_value,
    prevent_duplicates,
    validate_mapping_kwargs,
)
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.execution_time.context import context_update_for_unmapped

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


@attrs.define
class DealtInput(DictOfListsExpandInput):
    """
    What a task is mapped over, dealt out to a number of instances.

    For Airflow's serialization and scheduler a literal of that length, so that the instances are there
    from the start of the run, and no limit on mapped lengths counts the items
    (airflow/serialization/encoders.py, airflow/models/expandinput.py).

    :param items: as the author gave it.
    :param options: for whoever runs the items.
    """

    items: Any = None
    options: Any = None

    def iter_references(self) -> Iterable[Any]:
        """None: what is upstream is an ordinary task, which nothing is mapped over."""
        return ()


@attrs.define
class BatchedLists(DictOfListsExpandInput):
    """What ``.expand()`` gives, of which each instance has a batch."""

    options: Any = None


@attrs.define
class BatchedDicts(ListOfDictsExpandInput):
    """The same for ``.expand_kwargs()``."""

    options: Any = None


def deal(what: Any, items: Any, options: Any, instances: int, *, strict: bool) -> tuple[MappedOperator, Any]:
    """
    Make a mapped operator, as ``.expand()`` and ``.expand_kwargs()`` do.

    :param what: an operator's ``.partial()``, or a ``@task`` function.
    :return: the operator, and what ``.expand()`` would have returned.
    """
    ensure_xcomarg_return_value(items.value)
    dealt = DealtInput({"instance": list(range(instances))}, items, options)
    returned: Any = what._expand(dealt, strict=strict)
    mapped: MappedOperator = returned if isinstance(what, OperatorPartial) else returned.operator
    XComArg.apply_upstream_relationship(mapped, items.value)
    return mapped, returned


def batch_by_batch(what: Any, items: Any, options: Any, *, strict: bool) -> tuple[MappedOperator, Any]:
    """The same over a stream, whose instances come as ``.expand()`` over it has them."""
    kind = BatchedLists if isinstance(items, DictOfListsExpandInput) else BatchedDicts
    returned: Any = what._expand(kind(items.value, options), strict=strict)
    return returned if isinstance(what, OperatorPartial) else returned.operator, returned


def items_of_lists(what: Any, lists: dict[str, Any]) -> DictOfListsExpandInput:
    """:raises TypeError: as ``.expand()`` does, and ``ValueError``."""
    if not lists:
        raise TypeError("no arguments to iterate over")
    if isinstance(what, OperatorPartial):
        validate_mapping_kwargs(what.operator_class, "expand", lists)
        prevent_duplicates(what.kwargs, lists, fail_reason="unmappable or already specified")
    else:
        what._validate_arg_names("expand", lists)
        prevent_duplicates(what.kwargs.get("op_kwargs", {}), lists, fail_reason="mapping already partial")
    return DictOfListsExpandInput(lists)


def items_of_dicts(dicts: Any) -> ListOfDictsExpandInput:
    """:raises TypeError: as ``.expand_kwargs()`` does."""
    if isinstance(dicts, Sequence) and not isinstance(dicts, str):
        if all(isinstance(one, (XComArg, Mapping)) for one in dicts):
            return ListOfDictsExpandInput(dicts)
    elif isinstance(dicts, XComArg):
        return ListOfDictsExpandInput(dicts)
    raise TypeError(f"expected XComArg or list[dict], not {type(dicts).__name__}")


def is_mappable_task(what: object) -> bool:
    return isinstance(what, (OperatorPartial, _TaskDecorator))


def operator_class_of(what: Any) -> type[BaseOperator]:
    found: type[BaseOperator] = what.operator_class
    return found


def dealt_options(mapped: MappedOperator) -> Any:
    """For whoever runs the items; ``None``: an instance is one item."""
    return getattr(mapped._get_specified_expand_input(), "options", None)


def items_of_instances(mapped: MappedOperator) -> Any:
    """What its instances are given, as the author gave it."""
    given = mapped._get_specified_expand_input()
    return given.items if isinstance(given, DealtInput) else given


class ReplacedMapping:
    """
    Mixed into Airflow's mapped operators: every instance is another operator.

    It adds no state, so that ``become`` can make it of an instance.
    """

    __slots__ = ()

    def make_instance(self) -> BaseOperator:
        """The operator that runs."""
        raise NotImplementedError

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """The task runner calls this to turn the mapped task into what it will execute."""
        context_update_for_unmapped(context, self.make_instance())
