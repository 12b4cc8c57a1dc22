"""Threads that items run in."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar

import pytest

from deferred_expand.workers import item_threads
from deferred_expand.workers.item_threads import ItemThreads

pytestmark = pytest.mark.asyncio

here: ContextVar[str] = ContextVar("here")


class Interrupted(BaseException):
    """Like Airflow's, no code catches it by chance."""


async def test_calls_run_beside_each_other_in_their_callers_context() -> None:
    threads = ItemThreads("test")
    barrier = threading.Barrier(5, timeout=20)

    async def one(name: str) -> str:
        here.set(name)
        await threads.run(barrier.wait)
        return await threads.run(here.get)

    assert await asyncio.gather(*(one(name) for name in "abcde")) == list("abcde")
    threads.close()


async def test_no_more_threads_than_are_allowed() -> None:
    threads = ItemThreads("test", most=1)
    names = await asyncio.gather(*(threads.run(lambda: threading.current_thread().name) for _ in range(20)))
    assert set(names) == {"test-1"}
    threads.close()


async def test_errors_are_raised_where_the_call_is_awaited() -> None:
    threads = ItemThreads("test")
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(next, iter(()))
    with pytest.raises(SystemExit):
        await threads.run(exit)
    assert await threads.run(int, "7") == 7
    threads.close()


async def test_a_call_of_python_code_is_interrupted_and_its_thread_goes_on() -> None:
    threads = ItemThreads("test", interruption=Interrupted)
    seen: list[str] = []

    def spin() -> None:
        try:
            while True:
                pass
        except Interrupted:
            seen.append(threading.current_thread().name)
            raise

    for _ in range(20):
        call = asyncio.ensure_future(threads.run(spin))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(seen) == 20
    assert len(set(seen)) <= 2, "one may be asked for before the last is known to be idle"
    threads.close()


async def test_one_that_blocks_is_left_behind_and_another_thread_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(item_threads, "LEFT_BEHIND_AFTER", 0.1)
    threads = ItemThreads("test", interruption=Interrupted)
    ends = threading.Event()
    blocked = asyncio.ensure_future(threads.run(ends.wait, 60))
    await asyncio.sleep(0.05)
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    assert "it is left behind" in caplog.text
    assert await threads.run(lambda: threading.current_thread().name) == "test-2"
    ends.set()
    threads.close()


async def test_an_interruption_that_comes_as_the_call_ends_loses_no_answer() -> None:
    threads = ItemThreads("test", interruption=Interrupted)

    async def short(seconds: float) -> None:
        call = asyncio.ensure_future(threads.run(time.sleep, 0.001))
        await asyncio.sleep(seconds)
        call.cancel()
        await asyncio.wait({call})

    for step in range(200):
        await short(step * 0.00001)
        assert await asyncio.wait_for(threads.run(int, "1"), 20) == 1
    threads.close()


async def test_a_call_that_is_not_to_be_interrupted_goes_on() -> None:
    threads = ItemThreads("test")
    ended = threading.Event()

    def sleep_and_tell() -> None:
        time.sleep(0.1)
        ended.set()

    call = asyncio.ensure_future(threads.run(sleep_and_tell))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not ended.is_set()
    assert await threads.run(ended.wait, 20)
    threads.close()
