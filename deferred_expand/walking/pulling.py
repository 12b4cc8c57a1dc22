"""From a source into the buffer: one opening of the source after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from deferred_expand.exceptions import CursorStuck, SourceShrank
from deferred_expand.streams.buffer import PageBuffer
from deferred_expand.streams.cursors import CursorWatch
from deferred_expand.streams.page import JSON, Page, Position, check_cursor

if TYPE_CHECKING:
    from deferred_expand.streams.events import Checkpoint
    from deferred_expand.walking.clock import SourceClock
    from deferred_expand.walking.pace import Pace
    from deferred_expand.walking.policy import WalkPolicy

OpenSource = Callable[[JSON], AsyncGenerator[Any, None]]
"""Opens the source after a cursor (``None``: from the start)."""


class Puller:
    """Pulls items until twice a batch is in the buffer: one is being staged, the next is complete."""

    def __init__(
        self,
        open_source: OpenSource,
        policy: WalkPolicy,
        start: Checkpoint,
        pace: Pace,
        clock: SourceClock,
    ) -> None:
        self.buffer = PageBuffer(start.position, resumable=policy.resumable)
        # Out of the buffer, in any walk. Windows count as full, also where they have closed before.
        self.taken = start.items * policy.unit.size + start.position.window.items
        self.full = 1  # items that make a batch: few as long as their size is not known
        self.pulled = asyncio.Event()  # there may be something to stage
        self._open_source = open_source
        self._policy = policy
        self._pace = pace
        self._clock = clock
        self._opening = 0  # the number of the one that counts
        self._cursors = CursorWatch(start.position.cursor, start.items)
        self._room = asyncio.Event()  # the buffer can take more

    @property
    def given(self) -> int:
        """What the source has given so far, in any walk."""
        return self.taken + len(self.buffer)

    def take(self, count: int) -> Position:
        """Take items off the buffer; returns the position right after them."""
        self.taken += count
        return self.buffer.drop(count)

    def count_as_taken(self, count: int) -> None:
        """Items that a window has no more."""
        self.taken += count

    def set_full(self, items: int) -> None:
        """How many items make a batch from now on."""
        self.full = items
        self._room.set()

    def give_up(self) -> None:
        """Take nothing more from the source as it is open, also where it ignores that it is cancelled."""
        self._opening += 1
        self._room.set()

    async def pull(self) -> BaseException | None:
        """
        Open the source where the last opening has ended, and pull until it is over.

        :return: what the source raised; raised from a task, a ``SystemExit`` would end the loop.
        """
        try:
            await self._pull_from(self.buffer.reopen())
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            return error
        return None

    async def _pull_from(self, position: Position) -> None:
        buffer, clock, now = self.buffer, self._clock, asyncio.get_running_loop().time
        opening = self._opening
        await self._until_wanted()
        async with aclosing(self._open_source(position.cursor)) as pages:
            async for page in pages:
                if opening != self._opening:
                    return  # the source has ignored that it was cancelled
                clock.heard_at = now()
                was_empty = not buffer
                if isinstance(page, Page):
                    self._check_cursor(page)
                    buffer.add_page(page, clock.heard_at)
                else:
                    buffer.add_item(page, clock.heard_at)
                if was_empty or len(buffer) >= self.full:  # start the batch's clock, or stage it
                    self.pulled.set()
                if self.given >= self._policy.max_items:
                    return
                if self._pace.holds_source or len(buffer) >= 2 * self.full:
                    await self._until_wanted()
                    if opening != self._opening:
                        return
        if buffer.still_to_pass_over:
            raise SourceShrank(
                f"opened again after item {self.given}, the source ended "
                f"{buffer.still_to_pass_over} item(s) before the place reached earlier: "
                "a source must give the same items in the same order again, or take a cursor"
            )

    async def _until_wanted(self) -> None:
        """Wait for what is not the source's to give."""
        opening = self._opening
        self._clock.stop()
        await self._pace.until_wanted(self.given)
        while len(self.buffer) >= 2 * self.full and opening == self._opening:
            self._room.clear()
            await self._room.wait()
        if opening == self._opening:
            self._clock.start()

    def _check_cursor(self, page: Page) -> None:
        check_cursor(page.cursor)
        if not self._policy.resumable:
            return
        between = self._cursors.items_since(page.cursor, self.given + len(page.items))
        if between:
            raise CursorStuck(
                f"{self._policy.name} gave a cursor a second time, with {between} item(s) "
                f"in between, after item {self.given}: it would give these again when it goes on. A page's "
                "cursor must ask for what follows the page"
            )
