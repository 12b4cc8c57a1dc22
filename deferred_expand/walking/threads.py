"""Threads for what blocks, so that one slow source stalls no other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from asgiref.sync import sync_to_async
from typing_extensions import ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


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
        in_thread = sync_to_async(call, thread_sensitive=False, executor=self._executor)
        return await in_thread(*args, **kwargs)

    def close(self) -> None:
        """Let the threads go; the calls that they are in are not interrupted."""
        self._executor.shutdown(wait=False, cancel_futures=True)
