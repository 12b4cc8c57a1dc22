"""Wrong use, found while the DAG is parsed."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import (
    DictOfListsExpandInput,
    MappedOperator,
    MappedTaskGroup,
    ResolveMixin,
    XComArg,
    serde_serialize,
)
from deferred_expand.exceptions import DefinitionError
from deferred_expand.operators.mapped import stream_references
from deferred_expand.sources.adapters import adapter_for
from deferred_expand.sources.arguments import pack
from deferred_expand.sources.function import takes_cursor
from deferred_expand.sources.opening import is_operator, is_trigger
from deferred_expand.triggers.expansion import MATERIALIZE

if TYPE_CHECKING:
    from deferred_expand.operators.deferred_expand import DeferredExpandOperator
    from deferred_expand.sources.opening import Source

_RULES_THAT_COUNT_THE_HEAD = frozenset({"one_success", "all_skipped", "all_failed"})


class StreamHeadCounted(UserWarning):
    """A trigger rule downstream takes the stream head for an item."""


def check_parameters(stream: DeferredExpandOperator) -> None:
    for name, value, least, unit in (
        ("batch_size", stream.batch_size, 1, "items"),
        ("source_retries", stream.source_retries, 0, "retries"),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DefinitionError(
                f"{stream.where}: {name} is {value!r}; it must be a whole number of {unit}, {least} or more"
            )
    if stream.materialize not in MATERIALIZE:
        raise DefinitionError(
            f"{stream.where}: materialize is {stream.materialize!r}; it must be one of {MATERIALIZE}"
        )
    interval = stream.batch_interval
    if not isinstance(interval, (int, float)) or isinstance(interval, bool) or not interval > 0:
        raise DefinitionError(
            f"{stream.where}: batch_interval is {interval!r}; it must be a number of seconds above 0"
        )


def check_source_kwargs(stream: DeferredExpandOperator) -> None:
    """They fit the source's signature, and can go to the triggerer."""
    kwargs = stream.source_kwargs
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise DefinitionError(f"{stream.where}: source_kwargs must be a dict with str keys")
    try:
        _check_signature(stream.source_object, kwargs)
    except TypeError as error:
        raise DefinitionError(
            f"{stream.where}: source_kwargs do not fit source {stream.source!r}: {error}"
        ) from error
    if stream.hops_on_worker:
        if adapter_for(stream.source_object).reads:
            raise DefinitionError(
                f"{stream.where}: source {stream.source!r} is read in the triggerer, which cannot make it: "
                "only the DAG file has it, or a function it is given. Move those to a module of their own"
            )
        return  # they need not go anywhere
    for name, value in kwargs.items():
        if isinstance(value, ResolveMixin):
            continue  # known at run time only
        try:
            serde_serialize(pack(_without_references(value)))
        except Exception as error:
            raise DefinitionError(
                f"{stream.where}: source_kwargs[{name!r}] cannot be sent to the triggerer: {error}. "
                "Pass what it is made from, and make it in the source"
            ) from error


def _check_signature(source: Source, kwargs: dict[str, Any]) -> None:
    """:raises TypeError: they do not fit."""
    signature = inspect.signature(source)
    if is_operator(source):
        required = {
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        }
        if missing := required - {"task_id"} - set(kwargs):
            raise TypeError(f"missing {', '.join(map(repr, sorted(missing)))}")
    elif not is_trigger(source) and takes_cursor(source):
        signature.bind(**kwargs, cursor=None)
    else:
        signature.bind(**kwargs)


def _without_references(value: Any) -> Any:
    if isinstance(value, ResolveMixin):
        return None
    if isinstance(value, dict):
        return {key: _without_references(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_references(item) for item in value]
    return value


def check_not_expanded(stream: DeferredExpandOperator, group: MappedTaskGroup) -> None:
    """A mapped task group is not expanded over this stream."""
    if any(operator is stream for operator, _ in XComArg.iter_xcom_references(group._expand_input)):
        raise DefinitionError(
            f"{stream.where}: task group {group.group_id!r} is expanded over a stream. Airflow starts "
            "new instances of a mapped group without looking at their dependencies, so a group cannot "
            "grow. Expand a task, which may trigger a DAG per item"
        )


def check_expansion(stream: DeferredExpandOperator, mapped: MappedOperator) -> None:
    """The mapped task can grow over this stream."""
    where = f"{stream.where}: task {mapped.task_id!r}"
    if not any(reference.stream is stream for _, reference in stream_references(mapped)):
        raise DefinitionError(
            f"{where} must be expanded over {stream.task_id!r}.output itself, and over nothing made from it"
        )
    if stream.mapped_task_id not in (None, mapped.task_id):
        raise DefinitionError(
            f"{where} is a second task expanded over the same stream, which already has "
            f"{stream.mapped_task_id!r}. Add a DeferredExpandOperator of its own for it"
        )
    if len(list(stream_references(mapped))) > 1:
        raise DefinitionError(f"{where} is expanded over a stream by more than one argument")
    expand_input = mapped._get_specified_expand_input()
    if isinstance(expand_input, DictOfListsExpandInput):
        for name, value in expand_input.value.items():
            if name not in dict(stream_references(mapped)) and not _has_length_one(value):
                raise DefinitionError(
                    f"{where} is expanded over a stream and over {name!r} as well. Beside a stream "
                    "only a literal with one element can be expanded over: pass it to .partial(), or "
                    "let the source give the combinations"
                )
    for limit in ("max_active_tis_per_dag", "max_active_tis_per_dagrun"):
        if mapped.partial_kwargs.get(limit) == 1:
            raise DefinitionError(
                f"{where} has {limit}=1, and its stream head, which stays deferred while the stream "
                "is open, would hold the only place. To run one item at a time, give the task a "
                "pool with one slot (that does not count deferred tasks)"
            )


def _has_length_one(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict)) and len(value) == 1


def check_complete_dag(stream: DeferredExpandOperator) -> None:
    """What only the whole DAG shows."""
    dag = stream.dag
    if stream.mapped_task_id is None:
        raise DefinitionError(
            f"{stream.where}: no task is expanded over this stream. Expand one over "
            f"{stream.task_id!r}.output with .expand() or .expand_kwargs()"
        )
    for task_id in dag.get_task(stream.mapped_task_id).downstream_task_ids:
        rule = str(getattr(dag.get_task(task_id).trigger_rule, "value", ""))
        if rule in _RULES_THAT_COUNT_THE_HEAD:
            warnings.warn(
                f"{stream.where}: task {task_id!r} has trigger_rule={rule!r} on "
                f"{stream.mapped_task_id!r}, whose stream head (map index 0) counts as one success. "
                "Use 'all_done' or 'none_failed', or look at the items' results",
                StreamHeadCounted,
                stacklevel=2,
            )
