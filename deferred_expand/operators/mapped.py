"""A mapped task that is expanded over a stream: index 0 is the stream head, the rest the author's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.mapping import (
    DecoratedMappedOperator,
    HeadedMapping,
    MappedOperator,
    become,
    expanded_over,
    make_unmapped,
)
from deferred_expand.operators.reference import StreamReference
from deferred_expand.workers.head import StreamHeadOperator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.airflow_internals.sdk import AbstractOperator
    from deferred_expand.operators.reference import StreamTask

# What the author sets on the mapped task belongs to the items, except what says how a failed
# stream is tried again and who is told.
_HEAD_ARGUMENTS = (
    "email", "email_on_failure", "max_retry_delay", "on_failure_callback", "owner", "queue",
    "retries", "retry_delay", "retry_exponential_backoff",
)  # fmt: skip


class _OverStream(HeadedMapping):
    __slots__ = ()

    def make_head(self) -> StreamHeadOperator:
        mapped: MappedOperator = self  # type: ignore[assignment]
        ((_, reference),) = stream_references(mapped)
        stream = reference.stream
        return make_unmapped(
            mapped,
            StreamHeadOperator,
            _HEAD_ARGUMENTS,
            definition=stream.definition,
            source_kwargs=stream.source_kwargs,
        )


class StreamMappedOperator(_OverStream, MappedOperator):
    """A classic operator, mapped over a stream."""


class StreamDecoratedMappedOperator(_OverStream, DecoratedMappedOperator):
    """A ``@task`` function, mapped over a stream."""


def map_over_stream(mapped: MappedOperator) -> None:
    become(mapped, StreamMappedOperator, StreamDecoratedMappedOperator)


def stream_references(mapped: MappedOperator) -> Iterator[tuple[str | None, StreamReference]]:
    """The streams that a mapped operator is expanded over, each with its argument's name."""
    for name, value in expanded_over(mapped).items():
        if isinstance(value, StreamReference):
            yield name, value


def reads(task: AbstractOperator, stream: StreamTask) -> bool:
    """Whether a task is given the stream as an ordinary argument."""
    if isinstance(task, MappedOperator):
        return _refers(task.partial_kwargs, stream)
    return any(_refers(getattr(task, field, None), stream) for field in task.template_fields)


def _refers(value: Any, stream: StreamTask) -> bool:
    if isinstance(value, StreamReference):
        return value.stream is stream
    if isinstance(value, dict):
        return any(_refers(inner, stream) for inner in value.values())
    return isinstance(value, (list, tuple, set)) and any(_refers(inner, stream) for inner in value)
