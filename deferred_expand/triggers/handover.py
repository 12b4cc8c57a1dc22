"""How staged batches reach a committer: the expander in this triggerer, or a worker."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.sdk import redact
from deferred_expand.streams.events import Announcement, BatchEvent, WalkState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deferred_expand.committing.board import CommitBoard
    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.triggers.expansion import Expansion
    from deferred_expand.walking.walk import Walk

BOARD_POLL = 0.1  # seconds between two looks at the board
REPEAT = 2.0  # seconds; another triggerer may have written over an announcement, so make it again
COMMIT_PATIENCE = 8.0  # seconds that the expander may take for a commit before a worker is asked,
LOOKS = (
    2  # and how often it must have been through all streams by then, which takes longer where there are many
)
LONGEST_ERROR = 500  # characters that are told of a walk's
STATE_INTERVAL = 5.0  # seconds between two words of a walk that has nothing to commit
END_PATIENCE = 60.0  # seconds for the end of a stream, which waits for the scheduler as well


class Overtaken(Exception):
    """The stream has gone on without this walk."""


class ExpanderHandover:
    """
    Announces to the expander what a walk has staged, and follows what is committed of it.

    :param expansion: whose batches these are.
    :param announce: writes an announcement where the expander finds it.
    :param read_log: the stream's commit log.
    :param most_items: that the mapped task can have; what would pass it is a worker's to refuse.
    :param patience: seconds after which to give up on an expander that does not commit; or never.
    """

    def __init__(
        self,
        board: CommitBoard,
        expansion: Expansion,
        announce: Callable[[Announcement], Awaitable[None]],
        read_log: Callable[[], Awaitable[CommitLog | None]],
        *,
        most_items: int,
        patience: float = COMMIT_PATIENCE,
    ) -> None:
        self._board = board
        group = expansion.definition.group
        self._task_id = expansion.definition.task_id
        self._group_id = None if group is None else group.group_id
        self._stream = expansion.board_name
        self._announce = announce
        self._read_log = read_log
        self._most_items = most_items
        self._patience = patience
        self._pending = 0
        self._event: BatchEvent | None = None  # that was announced last
        self._told: tuple[str | None, int] | None = None  # what of the walk was

    async def run(self, walk: Walk) -> CommitLog | None:
        """
        Hand over until the source has ended and all is committed.

        :return: the log then; ``None`` when what is staged must go to a worker: the source failed,
            the mapped task has reached its greatest length, or the expander does not commit.
        :raises Overtaken: someone else has committed what this walk does not hold.
        """
        telling = asyncio.create_task(self._tell_changes(walk), name=f"state of {self._stream}")
        try:
            return await self._follow(walk)
        finally:
            telling.cancel()
            self._note_pending(0)

    async def _tell_changes(self, walk: Walk) -> None:
        """What people want to know, also while there is nothing to commit."""
        while True:
            await asyncio.sleep(STATE_INTERVAL)
            state = _shown(walk.state)
            if self._told is None or (state.waits_for, state.reopened) == self._told:
                continue  # nothing is announced yet, or it is known
            with suppress(Exception):  # an announcement of batches tells it, too
                await self.tell(self._event or BatchEvent.empty(walk.stream), walk)

    async def _follow(self, walk: Walk) -> CommitLog | None:
        announced, announced_at, waits_since, looks, seen = None, 0.0, 0.0, 0, 0
        while True:
            event = await walk.batches()
            if walk.items > self._most_items or (event.failure is not None and not event.counts):
                return None
            self._note_pending(sum(event.counts))
            now = time.monotonic()
            is_new = announced is None or announced.first != event.first
            waited, looked = (0.0, 0) if is_new else (now - waits_since, self._board.looks - looks)
            if self._has_no_hope(event, waited, looked):
                return None
            if event != announced or now - announced_at > REPEAT:
                seen = self._board.commits(self._stream)
                await self.tell(event, walk)
                announced, announced_at = event, now
                if is_new:
                    waits_since, looks = time.monotonic(), self._board.looks
            await asyncio.sleep(BOARD_POLL)
            commits = self._board.commits(self._stream)
            if commits != seen or time.monotonic() - announced_at > REPEAT:
                seen = commits
                log = await self._read_log()
                if log is None or not walk.goes_on_from(log.checkpoint):
                    raise Overtaken
                if log.ended:
                    return log

    def _has_no_hope(self, event: BatchEvent, waited: float, looks: int) -> bool:
        if self._patience == math.inf:
            return False
        patience = self._patience if event.counts else max(self._patience, END_PATIENCE)
        return not self._board.is_alive or (waited > patience and looks >= LOOKS)

    def _note_pending(self, items: int) -> None:
        self._board.add_pending(items - self._pending)
        self._pending = items

    async def tell(self, event: BatchEvent, walk: Walk | None = None) -> None:
        """Announce it, with how the walk is doing."""
        self._event = event = replace(event, failure=None)  # a failed source's last batches are as good
        state = None if walk is None else _shown(walk.state)
        if state is not None:
            self._told = state.waits_for, state.reopened
        announcement = Announcement(self._board.id, self._task_id, time.time(), event, self._group_id, state)
        await self._announce(announcement)
        self._board.note_announcement()


def _shown(state: WalkState) -> WalkState:
    """Without secrets, of which no half may be left."""
    return state if state.error is None else replace(state, error=str(redact(state.error))[:LONGEST_ERROR])
