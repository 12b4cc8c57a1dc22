"""A mapped task that is expanded over a stream: index 0 is the stream head, the rest the author's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import (
    DecoratedMappedOperator,
    DictOfListsExpandInput,
    MappedOperator,
    context_update_for_unmapped,
)
from deferred_expand.operators.head import StreamHeadOperator
from deferred_expand.operators.output import StreamReference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deferred_expand.operators.deferred_expand import DeferredExpandOperator

# What the author sets on the mapped task belongs to the items, except what says how a failed
# stream is tried again and who is told.
_HEAD_ARGUMENTS = (
    "email", "email_on_failure", "max_retry_delay", "on_failure_callback", "owner", "queue",
    "retries", "retry_delay", "retry_exponential_backoff",
)  # fmt: skip


class _OverStream:
    """Mixed into Airflow's mapped operators; adds no state, so an instance can become one."""

    __slots__ = ()

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """
        Unmap: the task runner calls this to turn the mapped task into what it will execute.

        The head has none of the author's template fields, so it is made and rendered apart.
        """
        if context["ti"].map_index != 0:
            super().render_template_fields(context, jinja_env)  # type: ignore[misc]
            return
        head = _make_head(self)  # type: ignore[arg-type]
        context_update_for_unmapped(context, head)
        head.render_template_fields(context, jinja_env)

    def _expand_mapped_kwargs(self, context: Any) -> tuple[Mapping[str, Any], set[int]]:
        # Values that are named here are not rendered as templates. Airflow leaves out what comes
        # through expand_kwargs (airflow/sdk/definitions/_internal/expandinput.py); an item is data.
        kwargs, resolved = super()._expand_mapped_kwargs(context)  # type: ignore[misc]
        return kwargs, resolved | {id(value) for value in _item_values(self, kwargs)}  # type: ignore[arg-type]


class StreamMappedOperator(_OverStream, MappedOperator):
    """A classic operator, mapped over a stream."""


class StreamDecoratedMappedOperator(_OverStream, DecoratedMappedOperator):
    """A ``@task`` function, mapped over a stream."""


def map_over_stream(mapped: MappedOperator) -> None:
    """
    Make an ordinary mapped operator one that is expanded over a stream.

    The object stays the same one, which its author, the DAG and the task group already hold; only
    its class changes, to a subclass with the same layout.
    """
    if isinstance(mapped, DecoratedMappedOperator):
        mapped.__class__ = StreamDecoratedMappedOperator
    else:
        mapped.__class__ = StreamMappedOperator
    # The scheduler would mark the head of a mapped EmptyOperator successful without running it, and
    # would start the author's trigger in place of the head (airflow/models/dagrun.py, schedule_tis).
    mapped._is_empty = False
    mapped.start_from_trigger = False


def stream_references(mapped: MappedOperator) -> Iterator[tuple[str | None, StreamReference]]:
    """The streams that a mapped operator is expanded over, each with its argument's name."""
    expand_input = mapped._get_specified_expand_input()
    if isinstance(expand_input, DictOfListsExpandInput):
        for name, value in expand_input.value.items():
            if isinstance(value, StreamReference):
                yield name, value
    elif isinstance(expand_input.value, StreamReference):
        yield None, expand_input.value


def _stream_of(mapped: MappedOperator) -> DeferredExpandOperator:
    ((_, reference),) = stream_references(mapped)
    return reference.stream


def _make_head(mapped: MappedOperator) -> StreamHeadOperator:
    arguments = {
        name: mapped.partial_kwargs[name] for name in _HEAD_ARGUMENTS if name in mapped.partial_kwargs
    }
    head = StreamHeadOperator(
        stream=_stream_of(mapped),
        task_id=mapped.task_id,
        dag=mapped.dag,
        task_group=mapped.task_group,
        _airflow_from_mapped=True,  # as MappedOperator.unmap: the DAG already has this task
        **arguments,
    )
    head.upstream_task_ids = mapped.upstream_task_ids
    head.downstream_task_ids = mapped.downstream_task_ids
    return head


def _item_values(mapped: MappedOperator, kwargs: Mapping[str, Any]) -> Iterator[Any]:
    ((argument, _),) = stream_references(mapped)
    values = kwargs.get("op_kwargs", kwargs) if isinstance(mapped, DecoratedMappedOperator) else kwargs
    for name, value in values.items():
        if argument is None or name == argument:
            yield value
