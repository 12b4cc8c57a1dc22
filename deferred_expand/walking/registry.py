"""Walks that outlive the triggers that ask for them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

    from deferred_expand.streams.events import Checkpoint
    from deferred_expand.walking.walk import Walk

log = logging.getLogger(__name__)

WATCH_INTERVAL = 2.0  # seconds


@dataclass
class _Entry:
    walk: Walk
    generation: int
    wanted: Callable[[], Awaitable[bool]]
    triggers: int = 0
    watch: asyncio.Task[None] | None = None


class WalkRegistry:
    """
    Keeps the walk of each stream going between two of its triggers.

    Airflow ends a trigger after its first event, while the walk should go on as that event's
    batches are committed. A walk that no trigger holds is closed when its stream is no longer
    wanted (looked at every :data:`WATCH_INTERVAL` seconds) or after ``idle_timeout`` seconds.

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
        entry = self._entries.get(key)
        if entry is not None:
            failed_before = entry.walk.failed and entry.generation != generation
            if failed_before or not entry.walk.goes_on_from(checkpoint):
                await self._close(key, entry)
                entry = None
        if entry is None:
            entry = self._entries[key] = _Entry(open_walk(), generation, wanted)
            entry.walk.start()
        entry.generation, entry.wanted = generation, wanted
        entry.triggers += 1
        if entry.watch is not None:
            entry.watch.cancel()
        try:
            yield entry.walk
        finally:
            entry.triggers -= 1
            if not entry.triggers and self._entries.get(key) is entry:
                entry.watch = asyncio.create_task(self._watch(key, entry, idle_timeout))

    async def _watch(self, key: Hashable, entry: _Entry, idle_timeout: float) -> None:
        loop = asyncio.get_running_loop()
        closes_at = loop.time() + idle_timeout
        while loop.time() < closes_at:
            await asyncio.sleep(min(WATCH_INTERVAL, idle_timeout))
            try:
                if not await entry.wanted():
                    break
            except Exception:
                log.warning("cannot tell whether stream %s is still wanted", key, exc_info=True)
        await self._close(key, entry)

    async def _close(self, key: Hashable, entry: _Entry) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]
        await entry.walk.close()
