"""Walks that outlive the triggers that ask for them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

    from deferred_expand.streams.events import Checkpoint
    from deferred_expand.walking.walk import Walk

log = logging.getLogger(__name__)

WATCH_INTERVAL = 2.0  # seconds
WATCH_SHARE = 0.2  # the same for each walk that there is: all of them together may not keep Airflow busy


class _Entry:
    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.generation = 0
        self.triggers = 0
        self.idle_since = 0.0  # in the loop's time
        self.wanted: Callable[[], Awaitable[bool]]
        self.watch: asyncio.Task[None]


class WalkRegistry:
    """
    Keeps the walk of each stream going between two of its triggers.

    Airflow ends a trigger after its first event, while the walk should go on as that event's
    batches are committed. A walk that no trigger holds is closed when its stream is no longer
    wanted (looked at every :data:`WATCH_INTERVAL` seconds, less often where there are many walks) or
    after ``idle_timeout`` seconds.

    What is committed never depends on this: without a walk the next trigger opens a new one from
    its checkpoint.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def hold(
        self,
        key: Hashable,
        generation: int,
        checkpoint: Checkpoint,
        open_walk: Callable[[], Walk],
        wanted: Callable[[], Awaitable[bool]],
        idle_timeout: float,
    ) -> AsyncIterator[Walk]:
        """
        Join the stream's walk, or open one.

        :param generation: the try of whoever waits; a new one does not take over a failed walk.
        :param open_walk: a walk from the checkpoint that is not started yet.
        :param wanted: whether anyone still waits for the stream.
        """
        loop = asyncio.get_running_loop()
        while (entry := self._entries.get(key)) is not None:
            failed_before = entry.walk.failed and entry.generation != generation
            if not failed_before and entry.walk.goes_on_from(checkpoint):
                if entry.generation != generation:
                    entry.walk.begin_try()
                break
            await self._close(key, entry)  # meanwhile another trigger may open one
            await entry.walk.discard()
        if entry is None:
            entry = self._entries[key] = _Entry(open_walk())
            entry.walk.start()
            entry.watch = asyncio.create_task(self._watch(key, entry, idle_timeout), name=f"watch {key}")
        entry.generation, entry.wanted = generation, wanted
        entry.triggers += 1
        try:
            yield entry.walk
        finally:
            entry.triggers -= 1
            entry.idle_since = loop.time()

    async def _watch(self, key: Hashable, entry: _Entry, idle_timeout: float) -> None:
        """As long as the entry is there: a task that begins when a loop ends would never run."""
        try:
            needed = True
            while needed:
                await asyncio.sleep(min(max(WATCH_INTERVAL, WATCH_SHARE * len(self)), idle_timeout))
                wanted = entry.triggers > 0 or await self._is_wanted(key, entry, idle_timeout)
                needed = wanted or entry.triggers > 0  # one may have come meanwhile
        finally:
            await self._close(key, entry)
        await entry.walk.discard()

    async def _is_wanted(self, key: Hashable, entry: _Entry, idle_timeout: float) -> bool:
        if asyncio.get_running_loop().time() >= entry.idle_since + idle_timeout:
            return False
        try:
            return await entry.wanted()
        except Exception:
            log.warning("cannot tell whether stream %s is still wanted", key, exc_info=True)
            return True

    async def _close(self, key: Hashable, entry: _Entry) -> None:
        """The entry stays, and nobody joins it, until its source is closed: one is open at a time."""
        await entry.walk.close()
        if entry.watch is not asyncio.current_task():
            entry.watch.cancel()
        if self._entries.get(key) is entry:
            del self._entries[key]
