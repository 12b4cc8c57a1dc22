"""A mapped task that is expanded over a stream: index 0 is the stream head, the rest the author's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.mapping import (
    DecoratedMappedOperator,
    HeadedMapping,
    MappedOperator,
    expanded_over,
    make_unmapped,
)
from deferred_expand.operators.reference import StreamReference
from deferred_expand.workers.head import StreamHeadOperator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.airflow_internals.mapping import Expanded

# What the author sets on the mapped task belongs to the items, except what says how a failed
# stream is tried again and who is told.
_HEAD_ARGUMENTS = (
    "email", "email_on_failure", "max_retry_delay", "on_failure_callback", "owner", "queue",
    "retries", "retry_delay", "retry_exponential_backoff",
)  # fmt: skip


class OverStream(HeadedMapping):
    """Its head keeps a stream open."""

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
            show=stream.show,
        )


class StreamMappedOperator(OverStream, MappedOperator):
    """A classic operator, mapped over a stream."""


class StreamDecoratedMappedOperator(OverStream, DecoratedMappedOperator):
    """A ``@task`` function, mapped over a stream."""


def stream_references(expanded: Expanded) -> Iterator[tuple[str | None, StreamReference]]:
    """The streams that a task or group is expanded over, each with its argument's name."""
    for name, value in expanded_over(expanded).items():
        if isinstance(value, StreamReference):
            yield name, value
