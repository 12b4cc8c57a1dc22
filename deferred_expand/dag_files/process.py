"""
A DAG file process: forked from a clean server, it loads DAG files of one bundle, and walks what only
these have.

Its event loop runs in the main thread, so that Airflow's limit for imports works (it is an alarm), and
another thread receives: what the loop's thread asks of Airflow is answered though it waits. When the
trigger runner is gone, so is this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import threading
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.bundles import version_in_use
from deferred_expand.dag_files.frames import Frame, receive_frame
from deferred_expand.dag_files.loading import LoadedDags
from deferred_expand.dag_files.orders import WalkOrder, tell_error
from deferred_expand.dag_files.outlet import Outlet
from deferred_expand.dag_files.questions import RunnerComms
from deferred_expand.dag_files.reporting import report_here
from deferred_expand.dag_files.walking import Walking

if TYPE_CHECKING:
    import socket

log = logging.getLogger(__name__)

stream_here: ContextVar[int] = ContextVar("stream", default=0)
"""The stream that code runs for, for what it logs."""


def main(connection: socket.socket, bundle: str, version: str | None, memory: float) -> None:
    """
    :param version: of the bundle, which is kept from being cleaned up meanwhile.
    :param memory: that it may have, in megabytes; 0: as much as it wants.
    """
    if memory:
        limit = int(memory * 2**20)
        with suppress(ValueError, OSError):  # not everywhere
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    process = DagFileProcess(connection)
    report_here(process.tell, stream_here)
    with version_in_use(bundle, version):
        asyncio.run(process.serve())


class DagFileProcess:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._comms = RunnerComms(self.tell)
        self._dags = LoadedDags()
        self._walks: dict[int, asyncio.Task[None]] = {}
        self._outlets: dict[int, Outlet] = {}

    def tell(self, frame: Frame) -> None:
        """From any thread."""
        data = frame.to_bytes()
        with self._sending:
            self._connection.sendall(data)

    async def serve(self) -> None:
        """Until the trigger runner is gone, or wants no more."""
        self._comms.install()
        loop = asyncio.get_running_loop()
        receiving = threading.Thread(target=self._receive, args=(loop,), name="receive", daemon=True)
        receiving.start()
        await asyncio.Event().wait()

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(EOFError, OSError):
            while True:
                frame = receive_frame(self._connection)
                if frame.kind == "answer":
                    self._comms.answered(frame)
                else:
                    loop.call_soon_threadsafe(self._obey, frame)
        os._exit(0)  # also where the main thread never comes back

    def _obey(self, frame: Frame) -> None:
        number = frame.number
        if frame.kind == "walk":
            task = asyncio.create_task(self._walk(number, WalkOrder(**frame.body)), name=f"walk {number}")
            self._walks[number] = task
        elif frame.kind == "more" and number in self._outlets:
            self._outlets[number].want(frame.body)
        elif frame.kind == "close" and number in self._walks:
            self._walks[number].cancel()

    async def _walk(self, number: int, order: WalkOrder) -> None:
        stream_here.set(number)
        outlet = Outlet(
            lambda pages: self.tell(Frame("pages", number, pages)),
            reads_ahead=order.reads_ahead,
            walked=order.given,
            unit_size=order.unit_size,
        )
        self._outlets[number] = outlet
        last = Frame("closed", number)
        try:
            walking = Walking(
                order, self._dags, outlet, lambda kind, body=None: self.tell(Frame(kind, number, body))
            )
            self.tell(Frame("open", number, {"resumable": walking.resumable}))
            await outlet.until_wanted()
            async with aclosing(walking.pages()) as pages:
                async for page in pages:
                    outlet.add(page)
                    await outlet.until_wanted()
            await outlet.flushed()
            last = Frame("end", number)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                await outlet.flushed()
                last = Frame("failed", number, tell_error(error))
        finally:
            del self._outlets[number], self._walks[number]
            self.tell(last)
