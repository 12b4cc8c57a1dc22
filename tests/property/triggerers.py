"""A triggerer: its triggers, on an event loop of its own in virtual time, and the expander beside them."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from deferred_expand.committing import board as board_module
from deferred_expand.committing import stager
from deferred_expand.committing.board import CommitBoard, install_board
from deferred_expand.plugin import expander as expander_module
from deferred_expand.plugin import groups
from deferred_expand.plugin.expander import Expander
from deferred_expand.plugin.groups import GroupGrower
from deferred_expand.triggers import control, ending, growing, handover, session, walks
from deferred_expand.triggers.session import StreamSession
from deferred_expand.triggers.walks import WalkOpener
from deferred_expand.walking.registry import WalkRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.triggers.expansion import Expansion
    from deferred_expand.walking.walk import Walk
    from tests.unit.helpers import PagedNumbers

_ids = count(1)


class Clock:
    """In place of the module ``time``: it stands still until someone moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now


class _InlineThreads:
    """Calls that block are made at once; a process may end, or others go on, before and after each."""

    async def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        result = call(*args, **kwargs)
        await asyncio.sleep(0)
        return result

    def close(self) -> None:
        pass


class _InlineThreading:
    """A thread is over when it was started."""

    Event, Lock = threading.Event, threading.Lock

    class Thread:
        def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...] = (), daemon: bool) -> None:
            self.start = partial(target, *args)


class _Unwatched:
    def watch(self) -> None:
        """Virtual time would look like a loop that stands still."""


def install(patches: pytest.MonkeyPatch, clock: Clock) -> None:
    """Let the real parts of triggerers have this clock, and no threads."""
    patches.setenv("AIRFLOW_DISABLE_GREENBACK_PORTAL", "true")
    patches.setattr(groups, "threading", _InlineThreading)
    patches.setattr(GroupGrower, "_wake", lambda grower: None)
    for module in (board_module, control, expander_module, handover, groups, growing):
        patches.setattr(module, "time", clock)
    threads = _InlineThreads()
    for module in (control, session, ending, walks):
        patches.setattr(module, "call_in_thread", threads.run)
    for module in (stager, ending):
        patches.setattr(module, "Threads", lambda _: threads)
    patches.setattr(walks, "_watchdog", _Unwatched())
    patches.setattr(session, "_walks", None)  # each triggerer brings its own


class Triggerer:
    """
    :param open_expansion: the arguments of a trigger that starts now.
    :ivar writers: walks that were opened here.
    :ivar events: what its triggers have sent that has not arrived yet, by the trigger's id.
    """

    def __init__(
        self,
        clock: Clock,
        source: PagedNumbers,
        open_expansion: Callable[[], Expansion],
        *,
        has_expander: bool,
    ) -> None:
        self.id = next(_ids)
        self.board = CommitBoard(grows_groups=True)
        self.expander = Expander(self.id, self.board)
        self.has_expander = has_expander
        self.writers: set[str] = set()
        self.events: list[tuple[int, Any]] = []
        self._clock = clock
        self._source = source
        self._open_expansion = open_expansion
        self._registry = WalkRegistry()
        self._loop = _VirtualLoop(clock)
        self._triggers: dict[int, asyncio.Task[None]] = {}

    def load(self, assigned: dict[int, int]) -> None:
        """
        Start the triggers that are new, and cancel those that are not this triggerer's any more.

        :param assigned: their instances' tries, by the id of the trigger.
        """
        for trigger_id, task in list(self._triggers.items()):
            if trigger_id not in assigned:
                task.cancel()
            if task.done():
                del self._triggers[trigger_id]
        for trigger_id in assigned.keys() - self._triggers.keys() - {sent for sent, _ in self.events}:
            run = self._run(trigger_id, assigned[trigger_id])
            self._triggers[trigger_id] = self._loop.create_task(run)

    def go_on(self, count: int, pace: float = 0.0) -> None:
        """
        To some ``await`` of some task.

        :param pace: seconds that pass at each.
        """
        session._walks = self._registry
        install_board(self.board if self.has_expander else None)
        for _ in range(count):
            self._clock.now += pace
            self._loop.run_until_complete(asyncio.sleep(0))

    def look(self) -> None:
        """What the expander's thread does again and again."""
        self.expander._look()
        self.expander._groups._take_turns()
        self.board.beat()

    def close(self) -> None:
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self.go_on(10, pace=1.0)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _run(self, trigger_id: int, try_number: int) -> None:
        expansion = self._open_expansion()
        trigger = StreamSession(expansion, _Opener(self, expansion, self._source))
        try:
            event: Any = await trigger.walk_on(try_number)
        except Exception as error:
            event = error
        self.events.append((trigger_id, event))


class _Opener(WalkOpener):
    """Notes who has opened a walk."""

    def __init__(self, triggerer: Triggerer, expansion: Expansion, source: PagedNumbers) -> None:
        super().__init__(expansion, source.open, resumable=source.takes_cursor)
        self._triggerer = triggerer

    def open(
        self, committed: CommitLog, *, limited: bool = True, items_run: bool = True, waited: float = 0.0
    ) -> Walk:
        walk = super().open(committed, limited=limited, items_run=items_run, waited=waited)
        self._triggerer.writers.add(walk.writer)
        return walk
