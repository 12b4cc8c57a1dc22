"""All kinds of sources behind one way to open them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
    BaseTrigger,
)
from deferred_expand.exceptions import SourceGaveUp, SourceSkipped
from deferred_expand.sources.chain import OperatorChain, source_context
from deferred_expand.sources.function import takes, walk_function
from deferred_expand.sources.hops import walk_chain, walk_reader, walk_trigger
from deferred_expand.walking.retry import SourceRetry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from deferred_expand.streams.page import JSON
    from deferred_expand.streams.ref import StreamRef
    from deferred_expand.walking.threads import Threads

Source = Any
"""A function, an operator class, or a trigger class."""


def is_operator(source: Source) -> bool:
    return isinstance(source, type) and issubclass(source, BaseOperator)


def is_trigger(source: Source) -> bool:
    return isinstance(source, type) and issubclass(source, BaseTrigger)


def streams_itself(source: Source) -> bool:
    """Whether it is a trigger class that is walked as it is: a ``StreamingExpansionTrigger``."""
    return is_trigger(source) and hasattr(source, "stream")


def is_resumable(source: Source) -> bool:
    """Whether it can be entered in the middle; otherwise it is walked from its start again."""
    if streams_itself(source):
        return True
    return is_operator(source) or (not is_trigger(source) and takes(source, "cursor"))


def default_retry(source: Source) -> SourceRetry | None:
    """Operators cannot be told to try again by their authors; functions can do so themselves."""
    return SourceRetry() if is_operator(source) else None


def open_source(
    source: Source,
    kwargs: Mapping[str, Any],
    cursor: JSON,
    thread: Threads,
    *,
    ref: StreamRef,
    try_number: int,
    outer: BaseTrigger | None,
    results: Callable[[], Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> AsyncGenerator[Any, None]:
    """
    What the source gives after the cursor: items and pages.

    :param thread: for what blocks.
    :param outer: the trigger that walks it.
    :param results: makes what a source that takes ``results`` gets.
    :param context: that the source sees; ``None``: a function gets its arguments only.
    """
    if is_operator(source):
        chain = OperatorChain(source, kwargs, ref, try_number, context or {})
        if chain.adapter.reads:
            return walk_reader(chain, cursor, thread, outer)
        return walk_chain(chain, cursor, thread, outer)
    if streams_itself(source):
        opened: AsyncGenerator[Any, None] = source(**kwargs).stream(cursor)
        return opened
    if is_trigger(source):
        return walk_trigger(lambda: source(**kwargs))
    seen = None if context is None else source_context(context, ref, try_number, context.get("task"))
    return walk_function(source, kwargs, cursor, thread, results, seen)


async def with_own_outcomes(opened: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """Airflow's exceptions that say what becomes of a task, as this package's."""
    try:
        async for item in opened:
            yield item
    except AirflowSkipException as error:
        raise SourceSkipped(str(error) or "the source asked to be skipped") from error
    except AirflowFailException as error:
        raise SourceGaveUp(f"the source failed for good: {error}") from error
    finally:
        if hasattr(opened, "aclose"):
            await opened.aclose()
