"""Ending a task that may not want to."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds


def is_cancelled() -> bool:
    """
    Whether the current task shall end; otherwise a ``CancelledError`` is the doing of what it awaits.

    Python 3.10 cannot tell.
    """
    task = asyncio.current_task()
    return task is None or not hasattr(task, "cancelling") or task.cancelling() > 0


async def end(task: asyncio.Task[Any]) -> None:
    """
    Cancel a task and wait for its end, whatever that raises.

    One that ignores it for :data:`PATIENCE` seconds is named in the log, and left to itself.
    """
    task.cancel()
    with suppress(asyncio.CancelledError):
        _, alive = await asyncio.wait({task}, timeout=PATIENCE)
        if alive:
            log.warning("%s ignores that it is cancelled, and is left to itself", task.get_name())
    if task.done() and not task.cancelled():
        task.exception()  # seen
