"""The trigger runner's side of one DAG file process."""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import socket
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from deferred_expand.airflow_internals.asking import questions
from deferred_expand.airflow_internals.bundles import import_timeout
from deferred_expand.dag_files.frames import Frame, read_frame
from deferred_expand.dag_files.orders import error_told
from deferred_expand.dag_files.outlet import pages_told
from deferred_expand.dag_files.process import main
from deferred_expand.dag_files.questions import answer
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractContextManager
    from contextvars import Context

    from deferred_expand.dag_files.orders import WalkOrder
    from deferred_expand.streams.page import Page

log = logging.getLogger(__name__)

IMPORT_GRACE = 30.0  # seconds beyond Airflow's limit for an import, after which its process is ended
CLOSE_PATIENCE = 10.0  # seconds that a source may take to be closed
EXIT_PATIENCE = 5.0  # the same for a process to exit

_LAST = frozenset({"end", "failed", "closed", "gone"})

# Not forked from the trigger runner, whose threads may hold locks; and loaded once for all.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["deferred_expand.dag_files.preloaded"])


class DagFileProcessDied(Exception):
    """The process that loads DAG files has ended in the middle of a stream."""


class Walked(Protocol):
    """What a source tells of itself beside its pages."""

    def hear(self) -> None:
        """It gives something, though all of it is dropped."""

    def hurry(self) -> None:
        """It waits for what becomes of its items."""

    @property
    def given(self) -> int:
        """What the walk has of it, as the stream counts."""

    def stopped(self) -> AbstractContextManager[None]:
        """For as long as it is not the source that is waited for."""


@dataclass
class _Stream:
    walked: Walked
    frames: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)
    context: Context = field(default_factory=copy_context)  # of the trigger, whose log its words go to
    outside: ExitStack = field(default_factory=ExitStack)
    is_over: bool = False

    async def next(self) -> Frame:
        """The next frame that its reader has to know of."""
        while True:
            frame = await self.frames.get()
            if frame.kind == "heard":
                self.walked.hear()
            elif frame.kind == "hurry":
                self.walked.hurry()
            elif frame.kind == "clock":
                self.outside.close()
                if frame.body == "stop":
                    self.outside.enter_context(self.walked.stopped())
            else:
                self.is_over = frame.kind in _LAST
                return frame

    async def until_over(self) -> None:
        while not self.is_over:
            await self.next()


class RunningProcess:
    """
    :param bundle: whose DAGs it loads.
    :param memory: in megabytes; 0: as much as it wants.
    :ivar over: it takes no more streams.
    """

    def __init__(self, bundle: str, version: str | None, memory: float) -> None:
        self.over = False
        self._arguments = bundle, version, memory
        self._numbers = itertools.count(1)
        self._streams: dict[int, _Stream] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._thread = Threads("dag file process")
        self._process: Any = None
        self._writer: asyncio.StreamWriter
        self._receiving: asyncio.Task[None]

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            await self._thread.run(questions)
            self._process = _processes.Process(target=main, args=(theirs, *self._arguments), daemon=True)
            await self._thread.run(self._process.start)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._receiving = asyncio.create_task(self._receive(reader), name=f"DAG file process {self.pid}")

    async def walk(self, order: WalkOrder, walked: Walked, *, resumable: bool) -> AsyncGenerator[Page, None]:
        """
        What a source gives, page by page.

        :param resumable: as the worker knows the source.
        :raises DagMissing: it is not there (yet).
        :raises SourceNotImportable: it cannot be loaded, or is another one.
        :raises DagFileProcessDied: and with it this walk.
        """
        number, stream = next(self._numbers), _Stream(walked)
        self._streams[number] = stream
        self._send(Frame("walk", number, order.to_json()))
        try:
            with walked.stopped():
                opened = await self._opened(stream, order)
            if opened["resumable"] != resumable:
                raise SourceNotImportable(
                    f"{order.file!r} has changed while the stream was open: its source takes a cursor now, "
                    "or takes none any more. Clear the unmapped task with its downstream to begin anew"
                )
            while True:
                self._send(Frame("more", number, walked.given))
                frame = self._checked(await stream.next())
                if frame.kind == "end":
                    return
                for page in pages_told(frame.body):
                    yield page
        finally:
            stream.outside.close()
            await self._close(number, stream)

    async def _opened(self, stream: _Stream, order: WalkOrder) -> dict[str, Any]:
        patience = import_timeout() + IMPORT_GRACE
        waiting = asyncio.create_task(stream.next(), name="a DAG file is loaded")
        try:
            await asyncio.wait({waiting}, timeout=patience)
            if not waiting.done():
                self.kill()
                raise SourceNotImportable(
                    f"{order.file!r} of DAG bundle {order.bundle!r} could not be imported in {patience:g} s: "
                    "do less at the top level of the DAG file"
                )
            body: dict[str, Any] = self._checked(waiting.result()).body
            return body
        finally:
            waiting.cancel()

    def _checked(self, frame: Frame) -> Frame:
        if frame.kind == "failed":
            raise error_told(frame.body)
        if frame.kind == "gone":
            raise DagFileProcessDied(frame.body)
        return frame

    async def _close(self, number: int, stream: _Stream) -> None:
        """As far as it can be: what stands still is left alone, and no new stream goes there."""
        self._send(Frame("close", number))
        closing = asyncio.create_task(stream.until_over(), name="a source is closed elsewhere")
        try:
            await asyncio.wait({closing}, timeout=CLOSE_PATIENCE)
            if not closing.done():
                log.warning("A source does not end as it is closed; no other stream is walked beside it")
                self.over = True
        finally:
            closing.cancel()
            del self._streams[number]

    # -- the process ------------------------------------------------------------------------------

    def _send(self, frame: Frame) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame.to_bytes())

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._take(await read_frame(reader))
        self.over = True
        await self._thread.run(self._process.join, EXIT_PATIENCE)
        for stream in self._streams.values():
            stream.frames.put_nowait(Frame("gone", 0, _how_it_ended(self._process.exitcode)))

    def _take(self, frame: Frame) -> None:
        if frame.kind == "ask":
            task = asyncio.create_task(self._answer(frame), name="a question of a DAG file process")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        stream = self._streams.get(frame.number)
        if frame.kind == "log":
            name, level, text = frame.body
            context = stream.context if stream else copy_context()
            context.copy().run(logging.getLogger(name).log, level, "%s", text)
        elif stream is not None:
            stream.frames.put_nowait(frame)

    async def _answer(self, frame: Frame) -> None:
        self._send(await answer(frame))

    def kill(self) -> None:
        """Now; its streams are told."""
        self.over = True
        self._process.kill()

    async def end(self) -> None:
        """Once nobody walks anything in it."""
        self.over = True
        self._writer.close()
        try:
            await self._thread.run(self._process.join, EXIT_PATIENCE)
        finally:
            self._process.kill()  # if it is still there
            self._receiving.cancel()
            self._thread.close()


def _how_it_ended(code: int | None) -> str:
    how = f"with exit code {code}" if code is None or code >= 0 else f"by signal {-code}"
    return (
        f"the process that loads the DAG file has ended {how}: it crashed, was killed (memory?), or its code "
        "called os._exit"
    )
