"""Ending tasks that may not want to."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

log = logging.getLogger(__name__)

CANCEL_PATIENCE = 5.0  # seconds


async def end(*tasks: asyncio.Task[Any]) -> None:
    """
    Cancel tasks and wait for their ends, whatever they raise.

    One that ignores it for :data:`CANCEL_PATIENCE` seconds is named in the log, and left to itself.
    """
    for task in tasks:
        task.cancel()
    for task in await wait_patiently(*tasks):
        log.warning("%s ignores that it is cancelled, and is left to itself", task.get_name())


async def wait_patiently(*tasks: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Wait for the ends of tasks that were cancelled; returns those that did not come."""
    for task in tasks:
        task.add_done_callback(_see)
    alive = [task for task in tasks if not task.done()]
    if alive:
        await asyncio.wait(alive, timeout=CANCEL_PATIENCE)
    return [task for task in alive if not task.done()]


def _see(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # asyncio tells of those that nobody has asked for
