"""Wrong use, found while the DAG is parsed."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from deferred_expand import settings
from deferred_expand.airflow_internals.mapping import expanded_over, reads, references
from deferred_expand.airflow_internals.sdk import MappedOperator, ResolveMixin
from deferred_expand.definition import MATERIALIZE
from deferred_expand.exceptions import DefinitionError
from deferred_expand.operators.graph import needs_the_whole
from deferred_expand.operators.mapped import stream_references
from deferred_expand.operators.reference import StreamReference
from deferred_expand.shaping.steps import split
from deferred_expand.sources.adapters import adapter_for
from deferred_expand.sources.arguments import pack
from deferred_expand.sources.function import takes
from deferred_expand.sources.opening import is_operator, is_trigger
from deferred_expand.sources.plain_json import write
from deferred_expand.streams.tolerance import Tolerance

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.mapping import Expanded
    from deferred_expand.airflow_internals.sdk import AbstractOperator
    from deferred_expand.operators.reference import StreamTask
    from deferred_expand.shaping.steps import Steps
    from deferred_expand.sources.opening import Source

# Parameters, of which kind they are, what is the least, and what they must be.
_NUMBERS: tuple[tuple[str, type[float], float, str], ...] = (
    ("batch_size", int, 1, "whole number of items, 1 or more"),
    ("source_retries", int, 0, "whole number of retries, 0 or more"),
    ("max_pending", int, 1, "whole number of items, 1 or more"),
    ("max_items", int, 1, "whole number of items, 1 or more"),
    ("max_duration", float, sys.float_info.min, "number of seconds above 0, or a timedelta"),
    ("batch_interval", float, sys.float_info.min, "number of seconds above 0"),
    ("rate_limit", float, sys.float_info.min, "number of items per second above 0"),
    ("page_timeout", float, sys.float_info.min, "number of seconds above 0, or a timedelta"),
)
_MAY_BE_NONE = frozenset({"max_pending", "max_items", "rate_limit", "page_timeout", "max_duration"})


def check_parameters(stream: StreamTask) -> None:
    definition = stream.definition
    for name, kind, least, must_be in _NUMBERS:
        value = getattr(definition, name)
        if value is None and name in _MAY_BE_NONE:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value >= least:
            raise DefinitionError(f"{stream.where}: {name} is {value!r}; it must be a {must_be}")
    if definition.tolerate is not None:
        try:
            Tolerance.of(definition.tolerate)
        except ValueError as error:
            raise DefinitionError(f"{stream.where}: {error}") from error
    if definition.materialize not in MATERIALIZE:
        raise DefinitionError(
            f"{stream.where}: materialize is {definition.materialize!r}; it must be one of {MATERIALIZE}"
        )


def check_steps(stream: StreamTask, steps: Steps, *, for_followers: bool = False) -> None:
    """
    What shapes a stream can run where the stream is walked, but for its last maps.

    :param for_followers: other streams are made of it, so that no item is read where the DAG file is.
    """
    _, rest = split(steps)
    if stream.definition.hops_on_worker or settings.load_dags():
        return  # it is walked where the DAG file is
    for step in rest:
        if step.kind != "map" or for_followers:
            raise DefinitionError(
                f"{stream.where}: .{step.kind}({step.name}) needs a function that a triggerer can import, "
                "and so does everything before it: the number of items depends on it, which is known where "
                "the stream is walked. Move the functions to a module that is installed, or in Airflow's "
                "plugins folder; only a last .map() may use a function of the DAG file"
            )


def check_source_kwargs(stream: StreamTask, source: Source) -> None:
    """They fit the source's signature, and can go to the triggerer."""
    kwargs, name = stream.source_kwargs, str(stream.definition.source)
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise DefinitionError(f"{stream.where}: source_kwargs must be a dict with str keys")
    if isinstance(stream.show, str) or (unknown := [name for name in stream.show if name not in kwargs]):
        given = stream.show if isinstance(stream.show, str) else ", ".join(map(repr, unknown))
        raise DefinitionError(
            f"{stream.where}: show names {given}; it must be a list of names that are in source_kwargs"
        )
    try:
        if not stream.definition.takes_context:  # otherwise Airflow's decorator has done it
            _check_signature(source, kwargs)
    except TypeError as error:
        raise DefinitionError(f"{stream.where}: source_kwargs do not fit source {name!r}: {error}") from error
    if stream.definition.hops_on_worker:
        if adapter_for(source).reads:
            raise DefinitionError(
                f"{stream.where}: source {name!r} is read in the triggerer, which cannot make it: "
                "only the DAG file has it, or a function it is given. Move those to a module of their own"
            )
        return  # they need not go anywhere
    for name, value in kwargs.items():
        if isinstance(value, ResolveMixin):
            continue  # known at run time only
        try:
            write(pack({name: _without_references(value)}, with_dag=stream.definition.in_dag_file))
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
    else:
        ours = [] if is_trigger(source) else [name for name in ("cursor", "results") if takes(source, name)]
        signature.bind(**kwargs, **dict.fromkeys(ours))


def _without_references(value: Any) -> Any:
    if isinstance(value, ResolveMixin):
        return None
    if isinstance(value, dict):
        return {key: _without_references(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_references(item) for item in value]
    return value


def refuse_mapped(where: str) -> NoReturn:
    """The unmapped task is to be mapped itself."""
    raise DefinitionError(
        f"{where}: a DeferredExpandOperator cannot be mapped, neither with .partial().expand() nor in a "
        "mapped task group. For a stream of each of many tenants, write one stream of the tenants: "
        "tenants.output.flat_map(list_users), where list_users is an async generator function"
    )


def check_reader(stream: StreamTask, reader: AbstractOperator) -> None:
    """What it is given is the stream, and not what the unmapped task returns."""
    for reference in references(reader, stream):  # type: ignore[arg-type]
        if not isinstance(reference, StreamReference):
            task_id = stream.definition.task_id
            raise DefinitionError(
                f"{stream.where}: task {reader.task_id!r} is given {reference}, which is not the stream's "
                f"items. Give it {task_id!r}.output: it reads them all, and waits for the end"
            )
        if reference.unit.is_window:
            raise DefinitionError(
                f"{stream.where}: task {reader.task_id!r} is given windows of the stream as a whole. Expand "
                "over them, or give it the stream"
            )


def check_expansion(stream: StreamTask, expanded: Expanded) -> None:
    """A mapped task, or a task group, can grow over this stream."""
    kind = "task" if isinstance(expanded, MappedOperator) else "task group"
    name = f"{kind} {expanded.node_id!r}"
    where, streams = f"{stream.where}: {name}", dict(stream_references(expanded))
    if not any(reference.stream is stream for reference in streams.values()):
        raise DefinitionError(
            f"{where} must be expanded over {stream.definition.task_id!r}.output itself, and over "
            "nothing made from it: neither XComArg() of the task nor a key of its XCom is the stream"
        )
    if len(streams) > 1:
        raise DefinitionError(f"{where} is expanded over a stream by more than one argument")
    for argument, value in expanded_over(expanded).items():
        if argument not in streams and not _has_length_one(value):
            raise DefinitionError(
                f"{where} is expanded over a stream and over {argument!r} as well. Beside a stream "
                "only a literal with one element can be expanded over: pass it to .partial(), or "
                "let the source give the combinations"
            )
    if isinstance(expanded, MappedOperator):
        _check_mapped(stream, expanded, where)
    elif any(reference.unit.is_window for reference in streams.values()):
        raise DefinitionError(
            f"{where} is expanded over windows. Expand a WindowRunOperator over them, and the group in the "
            "DAG that it starts"
        )


def _check_mapped(stream: StreamTask, mapped: MappedOperator, where: str) -> None:
    if reads(mapped, stream):  # type: ignore[arg-type]
        raise DefinitionError(
            f"{where} is expanded over the stream, and given it as a whole in .partial(): each item would "
            f"wait for the last one. {needs_the_whole(mapped.task_id)}"
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
