"""Threads for what blocks, so that one slow source stalls no other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Generic, TypeVar

from asgiref.sync import sync_to_async
from typing_extensions import ParamSpec

from deferred_expand.walking.tasks import end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

ROUND_ITEMS = 256  # that are taken from an iterator in one call of a thread, at most,
ROUND_TIME = 0.001  # and the seconds after which such a call takes no more; it costs some 0.15 ms itself


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

    :param reads_ahead: whether :meth:`iterate` may take what nobody has asked for yet.
    """

    def __init__(self, name: str, count: int = 1, *, reads_ahead: bool = True) -> None:
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)
        self._round_items = ROUND_ITEMS if reads_ahead else 1

    async def run(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """:raises WantsToExit: the call asked for the end of the process, which is not its own."""

        def contained() -> R:
            try:
                return call(*args, **kwargs)
            except SystemExit as error:
                raise WantsToExit(f"it called sys.exit({error.code!r})") from error

        return await sync_to_async(contained, thread_sensitive=False, executor=self._executor)()

    async def iterate(self, iterator: Iterator[T]) -> AsyncGenerator[list[T], None]:
        """
        Give what an iterator gives, as many at once as there are: none waits for the one after it.

        It runs in one context from its first item to its end, and is closed in it when it can be.

        :raises WantsToExit: as :meth:`run`.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        source = _Iterating(iterator, self._round_items, lambda: loop.call_soon_threadsafe(news.set))
        goes_on = True
        try:
            while goes_on:
                taking = asyncio.ensure_future(self.run(source.take_some))
                taking.add_done_callback(lambda _: news.set())
                while source.taken or not taking.done():
                    if source.taken:
                        yield [source.taken.popleft() for _ in range(len(source.taken))]
                    else:
                        await news.wait()
                    news.clear()
                goes_on = await taking
        finally:
            source.stops = True
            try:
                await end(taking)
            finally:
                await self.finish(source.close)  # after the call that the thread may be in

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


class _Iterating(Generic[T]):
    """
    The threads' side of :meth:`Threads.iterate`.

    :param tell: is called when there is something to take, and nobody knows.
    """

    def __init__(self, iterator: Iterator[T], round_items: int, tell: Callable[[], object]) -> None:
        self.taken: deque[T] = deque()
        self.stops = False
        self._iterator = iterator
        self._round_items = round_items
        self._tell = tell
        self._context = copy_context()
        self._turn = threading.Lock()  # a call that was given up may still run when it is closed

    def take_some(self) -> bool:
        """:return: whether there may be more."""
        with self._turn:
            return self._context.run(self._take_some)

    def close(self) -> None:
        with self._turn:
            self._context.run(getattr(self._iterator, "close", lambda: None))

    def _take_some(self) -> bool:
        ends_at = time.monotonic() + ROUND_TIME
        for number, item in enumerate(self._iterator, 1):
            self.taken.append(item)
            if len(self.taken) == 1:  # otherwise whoever takes them has yet to see that there are more
                self._tell()
            if self.stops or number == self._round_items or time.monotonic() > ends_at:
                return True
        return False
