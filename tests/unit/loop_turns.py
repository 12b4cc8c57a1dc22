"""An event loop that does something at one of its turns."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class TurnLoop(asyncio.SelectorEventLoop):
    """
    :param turn: at which ``act`` is called.
    :param virtual_time: nobody waits for a timer. Not with threads, which take real time.
    """

    def __init__(self, turn: int, act: Callable[[], Any], *, virtual_time: bool) -> None:
        super().__init__()
        self.turns = 0
        self.turn = turn
        self._act = act
        self._virtual_time = virtual_time
        self._passed = 0.0

    def time(self) -> float:
        return super().time() + self._passed

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns == self.turn:
            self._act()
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if self._virtual_time and timers and not self._ready:  # type: ignore[attr-defined]
            self._passed += max(0.0, timers[0].when() - self.time())
        super()._run_once()  # type: ignore[misc]


def run_with(main: Coroutine[Any, Any, Any], turn: int, act: Callable[[TurnLoop], Any], **how: Any) -> int:
    """
    Run until the coroutine and what ``act`` begins is over, and nothing else.

    :return: the turns that the coroutine took. When it took less than ``turn``, ``act`` came after it.

    :raises AssertionError: a task or a thread is left.
    """
    before = set(threading.enumerate())
    begun: list[asyncio.Future[Any]] = []
    loop = TurnLoop(turn, lambda: begun.append(act(loop)), **how)
    problems: list[Any] = []
    loop.set_exception_handler(lambda _, problem: problems.append(problem))
    try:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(loop.create_task(main))
        turns = loop.turns
        if not begun:
            loop.turn = turns + 1
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.run_until_complete(begun[0])
        left = asyncio.all_tasks(loop)
        assert not left, f"at turn {turn}"
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), f"{thread.name} at turn {turn}"
    assert not problems, f"at turn {turn}: {problems}"
    return turns
