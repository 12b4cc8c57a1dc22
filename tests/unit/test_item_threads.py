"""Threads that items run in."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar

import pytest

from deferred_expand.workers import item_threads
from deferred_expand.workers.item_threads import InOneGo, ItemThreads

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


async def test_calls_that_come_together_are_made_in_one_thread_each_in_its_context() -> None:
    go = InOneGo(ItemThreads("test"))

    async def one(number: int) -> tuple[str, str, object]:
        here.set(str(number))
        try:
            return threading.current_thread().name, *await go.run(seen, number)
        except ZeroDivisionError as error:
            return "", "", error

    def seen(number: int) -> tuple[str, str]:
        1 / (number - 7)
        return here.get(), threading.current_thread().name

    found = await asyncio.gather(*(one(number) for number in range(100)))
    assert [value for _, value, _ in found] == [str(n) if n != 7 else "" for n in range(100)]
    assert {str(thread) for n, (_, _, thread) in enumerate(found) if n != 7} == {"test-1"}
    assert isinstance(found[7][2], ZeroDivisionError)


async def test_one_that_takes_long_holds_up_nobody_for_long() -> None:
    go, wait = InOneGo(ItemThreads("test")), threading.Event()
    long = asyncio.create_task(go.run(wait.wait, 60))
    await asyncio.sleep(0.05)
    others = asyncio.gather(*(go.run(str, number) for number in range(20)))
    assert await asyncio.wait_for(others, 10) == [str(number) for number in range(20)]
    assert not long.done()
    barrier = threading.Barrier(3, timeout=20)
    await asyncio.gather(*(go.run(barrier.wait) for _ in range(3)))  # threads of their own from now on
    wait.set()
    assert await long


async def test_one_that_nobody_waits_for_any_more_is_interrupted_or_not_begun() -> None:
    go, begun = InOneGo(ItemThreads("test", interruption=Interrupted)), threading.Event()
    ended: list[str] = []

    def spin() -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.001)
        except Interrupted:
            ended.append("spun")
            raise

    spinning = asyncio.create_task(go.run(spin))
    waiting = asyncio.create_task(go.run(ended.append, "never"))
    await asyncio.to_thread(begun.wait, 20)
    for task in (waiting, spinning):
        task.cancel()
    await asyncio.wait({spinning, waiting})
    assert await asyncio.wait_for(go.run(int, "7"), 10) == 7
    assert ended == ["spun"]
