"""Sources for the benchmarks; they only wait and make numbers or bytes."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deferred_expand import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def page_of(number: int, items: int, item_bytes: int) -> list[Any]:
    first = number * items
    return [n if not item_bytes else {"n": n, "body": "x" * item_bytes} for n in range(first, first + items)]


async def pages(
    count: str,
    items: str,
    seconds: str,
    item_bytes: str = "0",
    yields: str = "",
    cursor: int | None = None,
) -> AsyncIterator[Page]:
    """
    Pages that take a while each; arguments are strings, as they come from templates.

    :param yields: file in which to note when each was given.
    """
    for number in range(cursor or 0, int(count)):
        await asyncio.sleep(float(seconds))
        if yields:
            with Path(yields).open("a") as file:  # noqa: ASYNC230  # a line a page
                file.write(f"{time.time()}\n")
        yield Page(page_of(number, int(items), int(item_bytes)), cursor=number + 1)


async def slow_pages(seconds: str, gate: str, cursor: int | None = None) -> AsyncIterator[Page]:
    """
    A page of one item at once, and then one every so many seconds, forever.

    :param gate: a file, before which there is no second page.
    """
    number = cursor or 0
    while True:
        if number:
            while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240  # another process makes it
                await asyncio.sleep(random.uniform(1, 3))
            await asyncio.sleep(float(seconds) * random.uniform(0.5, 1.5))
        number += 1
        yield Page([number], cursor=number)


async def lag_probe(samples: str) -> AsyncIterator[int]:
    """Notes every second how many milliseconds late the event loop was; gives nothing."""
    loop = asyncio.get_running_loop()
    with Path(samples).open("a") as file:  # noqa: ASYNC230  # a line a second
        while True:
            late = []
            for _ in range(20):
                due = loop.time() + 0.05
                await asyncio.sleep(0.05)
                late.append((loop.time() - due) * 1000)
            file.write(json.dumps({"at": time.time(), "late_ms": late}) + "\n")
            file.flush()
    yield 0  # makes it a generator
