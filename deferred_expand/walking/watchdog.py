"""Tells who blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from contextlib import suppress

log = logging.getLogger(__name__)

BLOCKED = 1.0  # seconds
SILENCE = 60.0  # seconds between two warnings about the same task


class LoopWatchdog:
    """
    A daemon thread that looks at the event loop twice a second, and names the task and the line that
    it stands still in. Airflow's triggerer says that its loop was blocked, and by none it knows.

    :param blocked: seconds for which the loop has not come around.
    :param whose: loop it is, for the message.
    """

    def __init__(self, blocked: float = BLOCKED, whose: str = "of all triggers") -> None:
        self._blocked, self._whose = blocked, whose
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._seen = 0.0
        self._told: dict[str, float] = {}

    def watch(self) -> None:
        """Watch the running loop; asked again, nothing happens."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        self._loop, self._thread_id, self._seen = loop, threading.get_ident(), time.monotonic()
        threading.Thread(target=self._run, args=(loop,), name="deferred_expand watchdog", daemon=True).start()

    def stop(self) -> None:
        self._loop = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._loop is loop:
            try:
                loop.call_soon_threadsafe(self._see)
            except RuntimeError:
                return  # closed
            time.sleep(self._blocked / 2)
            if time.monotonic() - self._seen > self._blocked:
                self._tell(loop)

    def _see(self) -> None:
        self._seen = time.monotonic()

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        frame = sys._current_frames().get(self._thread_id)
        task = None
        with suppress(RuntimeError):
            task = asyncio.current_task(loop)
        if frame is None or task is None:
            return
        now, name = time.monotonic(), task.get_name()
        if now - self._told.get(name, -SILENCE) < SILENCE:
            return
        self._told[name] = now
        log.warning(
            "%s blocks the event loop %s. Let it await, or not be async: then it runs in a thread. "
            "It stands at:\n%s",
            name, self._whose, "".join(traceback.format_stack(frame)[-6:]),
        )  # fmt: skip
