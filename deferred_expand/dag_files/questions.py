"""What a DAG file process asks of Airflow, answered through the trigger runner that it belongs to."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.asking import answer_of, ask, install_comms
from deferred_expand.dag_files.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Callable


class RunnerComms:
    """
    In a DAG file process: what the SDK's calls go through, as ``SUPERVISOR_COMMS``.

    :param tell: sends a frame to the runner.
    """

    def __init__(self, tell: Callable[[Frame], None]) -> None:
        self._tell = tell
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()

    def install(self) -> None:
        install_comms(self)

    def send(self, message: Any) -> Any:
        """Blocks, also the event loop's thread: the answer comes in by another one."""
        return answer_of(self._ask(message).result())

    async def asend(self, message: Any) -> Any:
        return answer_of(await asyncio.wrap_future(self._ask(message)))

    def _ask(self, message: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = future
        self._tell(Frame("ask", number, message.model_dump(mode="json")))
        return future

    def answered(self, frame: Frame) -> None:
        with self._lock:
            future = self._waiting.pop(frame.number)
        if future.set_running_or_notify_cancel():
            future.set_result(frame.body)


async def answer(frame: Frame) -> Frame:
    """In the trigger runner: what Airflow says to a question."""
    return Frame("answer", frame.number, await ask(frame.body))
