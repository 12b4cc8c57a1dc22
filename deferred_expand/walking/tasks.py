"""Ending a task that may not want to."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

CANCEL_PATIENCE = 5.0  # seconds


async def end(task: asyncio.Task[Any]) -> None:
    """
    Cancel a task and wait for its end, whatever that raises.

    One that ignores it for :data:`CANCEL_PATIENCE` seconds is named in the log, and left to itself.
    """
    task.cancel()
    with suppress(asyncio.CancelledError):
        _, alive = await asyncio.wait({task}, timeout=CANCEL_PATIENCE)
        if alive:
            log.warning("%s ignores that it is cancelled, and is left to itself", task.get_name())
    if task.done() and not task.cancelled():
        task.exception()  # seen
