"""Threads for items, which nothing waits for when the process ends."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import queue
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

R = TypeVar("R")

IN_ONE_GO = 0.05  # seconds that calls may take that one thread makes one after the other,
SLOW = 0.5  # and one of them, before each has a thread of its own
LEFT_BEHIND_AFTER = 2.0  # seconds that a thread may take to see that it is interrupted


@dataclass
class _Call:
    call: Callable[[], Any]
    context: Context
    future: asyncio.Future[Any]
    thread: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        self.settle(*self.make())

    def make(self) -> tuple[Any, BaseException | None]:
        """:return: its result, or what it raised."""
        try:
            try:
                with self.lock:
                    self.thread = threading.get_ident()
                return self.context.run(self.call), None
            finally:
                with self.lock:
                    self.thread = None
        except BaseException as raised:  # also what interrupts it
            return None, raised

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Twice does no harm."""
        self.future.get_loop().call_soon_threadsafe(_settle, self.future, result, error)

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise in the thread, at the next step of its Python code."""
        with self.lock:
            if self.thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread), ctypes.py_object(error)
                )


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # a future takes none
        future.set_exception(RuntimeError(f"it raised {error!r}"))
    else:
        future.set_exception(error)


class ItemThreads:
    """
    As many as there are calls at a time. They are daemons: ``concurrent.futures`` waits for its own.

    :param most: threads; what is beyond waits for one.
    :param interruption: raised in a call whose wait is cancelled; ``None``: it goes on.
    """

    def __init__(
        self, name: str, most: int | None = None, interruption: type[BaseException] | None = None
    ) -> None:
        self._name, self._most, self._interruption = name, most, interruption
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = self._count = 0

    async def run(self, call: Callable[..., R], /, *arguments: Any) -> R:
        """In the caller's context variables. An interrupted call is waited for, not for long."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        made = _Call(lambda: call(*arguments), copy_context(), future)
        self.start(made)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if self.interrupt(made):
                await _wait_for(made)
            raise

    def interrupt(self, call: _Call) -> bool:
        """:return: whether calls are."""
        if self._interruption is None:
            return False
        call.interrupt(self._interruption)
        return True

    def start(self, call: _Call) -> None:
        with self._lock:
            starts = self._idle <= 0 and (self._most is None or self._count < self._most)
            if starts:
                self._count += 1
            else:
                self._idle -= 1
        self._calls.put(call)
        if starts:
            name = f"{self._name}-{self._count}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                try:
                    call.run()
                except BaseException as late:  # interrupted when the call had ended
                    call.settle(None, late)
            except RuntimeError:  # the loop is closed: nobody asks any more
                return
            del call
            with self._lock:
                self._idle += 1

    def close(self) -> None:
        """Let threads go that do nothing."""
        for _ in range(self._count):
            self._calls.put(None)


async def _wait_for(interrupted: _Call) -> None:
    done, _ = await asyncio.wait({interrupted.future}, timeout=LEFT_BEHIND_AFTER)
    if not done:
        log.warning("A call blocks, and does not see that its time is over; it is left behind")
    elif not interrupted.future.cancelled():
        interrupted.future.exception()


class InOneGo:
    """
    Short calls, of which those that come together are made one after the other in one thread.

    That costs less than a thread for each. Where one of them has taken long, those that come after it
    have threads of their own.
    """

    def __init__(self, threads: ItemThreads) -> None:
        self._threads = threads
        self._waiting: deque[_Call] = deque()
        self._going: asyncio.Task[None] | None = None
        self._slow = False

    async def run(self, call: Callable[..., R], /, *arguments: Any) -> R:
        """In the caller's context variables. A call whose wait is cancelled is interrupted."""
        if self._slow:
            return await self._threads.run(call, *arguments)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        made = _Call(lambda: call(*arguments), copy_context(), future)
        self._waiting.append(made)
        if self._going is None:
            self._going = asyncio.create_task(self._go(), name="calls in one go")
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.cancel()  # it is not begun with, or
            self._threads.interrupt(made)
            raise

    async def _go(self) -> None:
        try:
            while self._waiting and not self._slow:
                go = _Go(self._waiting)
                making = asyncio.ensure_future(self._threads.run(go.make))
                await asyncio.wait({making}, timeout=SLOW)
                self._slow = not making.done()
                making.add_done_callback(partial(_settle_go, go))
                go.settle()
        finally:
            self._going = None
            while self._waiting:
                self._threads.start(self._waiting.popleft())


class _Go:
    """Calls that one thread makes; what has come of them so far can be taken at any time."""

    def __init__(self, waiting: deque[_Call]) -> None:
        self._waiting = waiting
        self._made: deque[tuple[_Call, Any, BaseException | None]] = deque()

    def make(self) -> None:
        until = time.monotonic() + IN_ONE_GO
        while time.monotonic() < until:
            try:
                call = self._waiting.popleft()
            except IndexError:
                return
            if call.future.done():
                continue  # nobody waits for it any more
            self._made.append((call, *call.make()))

    def settle(self) -> None:
        while self._made:
            call, result, error = self._made.popleft()
            _settle(call.future, result, error)


def _settle_go(go: _Go, making: asyncio.Future[None]) -> None:
    go.settle()
    if not making.cancelled():
        making.exception()  # an interruption that came late, of a call that had ended


class OneAtATime:
    """
    The same in ``dag.test()``: the loop waits for each call, as the supervisor is in this process and
    answers one thread alone.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    async def run(self, call: Callable[..., R], /, *arguments: Any) -> R:
        return self._thread.submit(copy_context().run, call, *arguments).result()

    def close(self) -> None:
        self._thread.shutdown()
