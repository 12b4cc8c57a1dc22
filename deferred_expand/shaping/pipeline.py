"""
Shaping items as they come.

Items are shaped page by page, and a page keeps its cursor: a walk that goes on after a cursor, or in
the middle of a page, passes over as many shaped items as it had given. So a function must give the
same for the same item again, like a source.
"""

from __future__ import annotations

import inspect
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync

from deferred_expand.airflow_internals.sdk import AirflowSkipException
from deferred_expand.streams.page import JSON, Page, SkippedItem
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator

    from deferred_expand.shaping.steps import Step, Steps


@dataclass(frozen=True)
class _Chunk:
    """Some items; with ``ends_page`` they are a page's last, and its cursor follows."""

    items: list[Any]
    ends_page: bool = False
    cursor: JSON = None


async def shape(opened: AsyncIterator[Any], steps: Steps, thread: Threads) -> AsyncGenerator[Any, None]:
    """
    Items and pages of a source, shaped.

    :param thread: for functions that are not ``async``, which may block.
    """
    chunks = _chunks(opened)
    for step in steps:
        chunks = _apply(step, chunks, thread)
    async with aclosing(chunks):
        async for chunk in chunks:
            if chunk.ends_page:
                yield Page(chunk.items, cursor=chunk.cursor)
            else:
                for item in chunk.items:
                    yield item


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
            pages = [page if isinstance(page, Page) else Page([page]) async for page in shaped]
    finally:
        thread.close()
    return [item for page in pages for item in page.items]


async def _chunks(opened: AsyncIterator[Any]) -> AsyncGenerator[_Chunk, None]:
    try:
        async for page in opened:
            if isinstance(page, Page):
                yield _Chunk(list(page.items), True, page.cursor)
            else:
                yield _Chunk([page])
    finally:
        if hasattr(opened, "aclose"):
            await opened.aclose()


async def _apply(
    step: Step, chunks: AsyncGenerator[_Chunk, None], thread: Threads
) -> AsyncGenerator[_Chunk, None]:
    """What is shaped goes on at once, and does not wait for the rest of its page."""
    async with aclosing(chunks):
        async for chunk in chunks:
            async with aclosing(_shaped(step, chunk.items, thread)) as parts:
                async for part in parts:
                    yield _Chunk(part)
            if chunk.ends_page:
                yield _Chunk([], True, chunk.cursor)


async def _shaped(step: Step, items: list[Any], thread: Threads) -> AsyncGenerator[list[Any], None]:
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


def _call_each(step: Step, items: list[Any]) -> Iterator[Any]:
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
