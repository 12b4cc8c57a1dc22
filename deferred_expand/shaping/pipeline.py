"""
Shaping items as they come.

Items are shaped page by page, and a page keeps its cursor: a walk that goes on after a cursor, or in
the middle of a page, passes over as many shaped items as it had given. So a function must give the
same for the same item again, like a source.
"""

from __future__ import annotations

import inspect
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync

from deferred_expand.airflow_internals.sdk import AirflowSkipException
from deferred_expand.streams.page import Page, SkippedItem
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence

    from deferred_expand.shaping.steps import Step, Steps


async def shape(
    opened: AsyncIterator[Any], steps: Steps, thread: Threads, hear: Callable[[], None] = lambda: None
) -> AsyncGenerator[Page, None]:
    """
    Items and pages of a source, shaped; a page may come in parts, of which the last has its cursor.

    :param thread: for functions that are not ``async``, which may block.
    :param hear: called when something comes of the source or a function, also where all of it is dropped.
    """
    pages = _pages(opened)
    for step in steps:
        pages = _apply(step, pages, thread, hear)
    async with aclosing(pages):
        async for page in pages:
            yield page


def shape_one(item: Any, steps: Steps) -> Any:
    """
    Map one item, where it is read.

    :raises AirflowSkipException: a function skips it.
    """
    for step in steps:
        item = step.function(item)
    return item


def shape_batch(items: Iterable[Any], steps: Steps) -> list[Any]:
    """Shape some items in a thread of a task, where there is no event loop."""
    if not steps:
        return list(items)
    return async_to_sync(_shape_batch)(list(items), steps)


async def _shape_batch(items: list[Any], steps: Steps) -> list[Any]:
    async def opened() -> AsyncGenerator[Page, None]:
        yield Page(items)

    thread = Threads("shape")
    try:
        async with aclosing(shape(opened(), steps, thread)) as shaped:
            return [item async for page in shaped for item in page.items]
    finally:
        thread.close()


async def _pages(opened: AsyncIterator[Any]) -> AsyncGenerator[Page, None]:
    try:
        async for page in opened:
            yield page if isinstance(page, Page) else Page([page])
    finally:
        if hasattr(opened, "aclose"):
            await opened.aclose()


async def _apply(
    step: Step, pages: AsyncGenerator[Page, None], thread: Threads, hear: Callable[[], None]
) -> AsyncGenerator[Page, None]:
    """What is shaped goes on at once, and does not wait for the rest of its page."""
    async with aclosing(pages):
        async for page in pages:
            hear()
            async with aclosing(_shaped(step, page.items, thread)) as parts:
                async for part in parts:
                    if part:
                        yield Page(part)
            if page.cursor is not None:
                yield Page([], cursor=page.cursor)


async def _shaped(step: Step, items: Sequence[Any], thread: Threads) -> AsyncGenerator[list[Any], None]:
    if step.kind == "flat_map":
        for item in items:
            async with aclosing(_flatten(step, item, thread)) as parts:
                async for part in parts:
                    yield part
    elif inspect.iscoroutinefunction(step.function):
        for item in items:
            yield await _await_one(step, item)
    else:
        async with aclosing(thread.iterate(_call_each(step, items))) as parts:
            async for part in parts:
                yield part


def _call_each(step: Step, items: Sequence[Any]) -> Iterator[Any]:
    for item in items:
        yield from _keep(step, item, step.function)


async def _await_one(step: Step, item: Any) -> list[Any]:
    if isinstance(item, SkippedItem):
        return [item]
    try:
        answer = await step.function(item)
    except AirflowSkipException as error:
        return _skipped(step, error)
    return _keep(step, item, lambda _: answer)


def _keep(step: Step, item: Any, call: Callable[[Any], Any]) -> list[Any]:
    """What becomes of one item: itself, another one, or nothing."""
    if isinstance(item, SkippedItem):
        return [item]
    try:
        answer = call(item)
    except AirflowSkipException as error:
        return _skipped(step, error)
    if step.kind == "map":
        return [answer]
    return [item] if answer else []


def _skipped(step: Step, error: AirflowSkipException) -> list[Any]:
    """As natively: a map that skips gives an instance that is skipped; a filter has a way to say no."""
    return [SkippedItem(str(error))] if step.kind == "map" else []


async def _flatten(step: Step, item: Any, thread: Threads) -> AsyncGenerator[list[Any], None]:
    if isinstance(item, SkippedItem):
        yield [item]
        return
    if inspect.isasyncgenfunction(step.function) or inspect.iscoroutinefunction(step.function):
        parts = step.function(item)
    else:
        parts = await thread.run(step.function, item)
    if inspect.isawaitable(parts):
        parts = await parts
    if hasattr(parts, "__aiter__"):
        async with aclosing(parts):
            async for part in parts:
                yield [part]
        return
    if isinstance(parts, list):
        yield parts
        return
    async with aclosing(thread.iterate(iter(parts))) as given:
        async for chunk in given:
            yield chunk
