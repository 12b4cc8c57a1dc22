"""Functions as sources: async generators, sync generators, anything that returns an iterable."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import aclosing
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.contexts import enter_context, keyword_arguments
from deferred_expand.exceptions import SourceFailed
from deferred_expand.sources.arguments import POSITIONAL
from deferred_expand.streams.page import JSON, Page

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from deferred_expand.walking.threads import Threads


def takes(function: Callable[..., Any], name: str) -> bool:
    """
    Whether the source has a parameter of this name.

    With ``cursor`` it can be entered in the middle; with ``results`` it wants those of its items.
    """
    parameters = inspect.signature(function).parameters
    return name in parameters and parameters[name].kind not in (
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )


async def walk_function(
    function: Callable[..., Any],
    kwargs: Mapping[str, Any],
    cursor: JSON,
    thread: Threads,
    results: Callable[[], Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> AsyncGenerator[Any, None]:
    """
    Open the source and give what it gives: items, or :class:`Page` objects.

    :param context: of which it gets what it has parameters for, as a ``@task`` function does.

    Async generator functions run in the event loop; everything else runs in ``thread``. Whatever
    was opened is closed, also when the walk is cancelled.
    """
    arguments = dict(kwargs)
    positional = arguments.pop(POSITIONAL, ())
    if context is not None:
        enter_context(context)
        arguments = keyword_arguments(function, positional, {**context, **arguments})
    if takes(function, "cursor"):
        arguments["cursor"] = cursor
    if results is not None and takes(function, "results"):
        arguments["results"] = results()
    if inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function):
        opened = function(*positional, **arguments)
    else:
        opened = await _call(partial(function, *positional, **arguments), thread)
    if inspect.isawaitable(opened):
        opened = await opened
    walk = _walk_async(opened) if hasattr(opened, "__aiter__") else _walk_sync(opened, thread)
    async with aclosing(walk) as items:
        async for item in items:
            yield item


async def _call(function: Callable[[], Any], thread: Threads) -> Any:
    """What the call returns; it is closed when nobody waits for it any more."""
    opened: list[Any] = []
    try:
        await thread.run(lambda: opened.append(function()))
    except asyncio.CancelledError:
        await thread.finish(lambda: _close(*opened))
        raise
    return opened[0]


def _close(*opened: Any) -> None:
    for each in opened:
        if hasattr(each, "close"):
            each.close()


async def _walk_async(opened: Any) -> AsyncGenerator[Any, None]:
    iterator = aiter(opened)
    try:
        async for item in iterator:
            yield item
    finally:
        if hasattr(iterator, "aclose"):
            await iterator.aclose()


async def _walk_sync(opened: Any, thread: Threads) -> AsyncGenerator[Page, None]:
    """Items that come at once make one page, which costs less on its way than each by itself."""
    if isinstance(opened, Page):
        yield opened
        return
    try:
        iterator: Iterator[Any] = await thread.run(iter, opened)
    except asyncio.CancelledError:
        await thread.finish(lambda: _close(opened))
        raise
    except TypeError:
        raise SourceFailed(
            f"the source returned {type(opened).__name__!r}, which cannot be iterated: "
            "it must be a generator function, or return an iterable of items or of Page objects"
        ) from None
    async with aclosing(thread.iterate(iterator)) as given:
        async for items in given:
            for are_pages, run in groupby(items, lambda item: isinstance(item, Page)):
                if are_pages:
                    for page in run:
                        yield page
                else:
                    yield Page(list(run))
