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
from deferred_expand.sources.chain import OperatorChain
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


def is_resumable(source: Source) -> bool:
    """Whether it can be entered in the middle; otherwise it is walked from its start again."""
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
    :param context: that an operator sees.
    """
    if is_operator(source):
        chain = OperatorChain(source, kwargs, ref, try_number, context or {})
        if chain.adapter.reads:
            return walk_reader(chain, cursor, thread, outer)
        return walk_chain(chain, cursor, thread, outer)
    if is_trigger(source):
        return walk_trigger(lambda: source(**kwargs))
    return walk_function(source, kwargs, cursor, thread, results)


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
