"""Threads for what blocks, so that one slow source stalls no other."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

from asgiref.sync import sync_to_async
from typing_extensions import ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


class WantsToExit(Exception):
    """
    In place of ``SystemExit``, which in a task of the event loop ends the loop, and with it the
    triggers of every DAG, in one triggerer after the other.
    """


class Threads:
    """
    Runs blocking calls; with one thread (which starts with the first call), one after the other.

    asgiref carries the context variables over, and lets Airflow's own sync calls find their way
    back to the triggerer's event loop. Without an executor of its own, every thread-sensitive call
    of the process would wait in one line.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)

    async def run(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """:raises WantsToExit: the call asked for the end of the process, which is not its own."""

        def contained() -> R:
            try:
                return call(*args, **kwargs)
            except SystemExit as error:
                raise WantsToExit(f"it called sys.exit({error.code!r})") from error

        return await sync_to_async(contained, thread_sensitive=False, executor=self._executor)()

    async def finish(self, call: Callable[[], object]) -> None:
        """As :meth:`run`; the call is also made when the wait for it is cancelled."""
        made = False

        def once() -> None:
            nonlocal made
            if not made:
                made = True
                call()

        try:
            await self.run(once)
        except asyncio.CancelledError:  # maybe before the thread could begin
            self._executor.submit(copy_context().run, once)
            raise

    def close(self) -> None:
        """Let the threads go; the calls that they are in, or that are to be finished, are not interrupted."""
        self._executor.shutdown(wait=False)
