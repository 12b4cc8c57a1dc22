"""What people change of a stream while it is walked: read by its trigger, obeyed by its walk."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from deferred_expand.committing.board import control_on_board, installed_board
from deferred_expand.triggers.calls import call_in_thread
from deferred_expand.walking.tasks import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deferred_expand.committing.store import StreamStore
    from deferred_expand.streams.control import Control
    from deferred_expand.triggers.expansion import Expansion
    from deferred_expand.walking.walk import Walk

log = logging.getLogger(__name__)

HINT_POLL = 0.25  # seconds between two looks at the board
POLL = 10.0  # seconds between two reads where no expander says that there is news
POLL_WITH_HINTS = 120.0  # and where one does, of which one may be lost


class ControlReader:
    """
    Of one stream.

    :param items_run: while it is walked, so that ``max_pending`` can hold.
    """

    def __init__(self, expansion: Expansion, store: StreamStore, *, items_run: bool) -> None:
        self._definition, self._store, self._items_run = expansion.definition, store, items_run
        self._name = control_on_board(expansion.ref.dag_id, expansion.ref.run_id, expansion.ref.task_id)
        self._refused = ""  # the last reason
        self._seen = 0
        self._was_read = False
        self._written: Any = None

    async def read(self) -> None:
        """Look up what is written now: a walk that is opened in a pause asks for nothing."""
        self._seen = self._hints()
        try:
            self._written = await call_in_thread(self._store.read_control)
            self._was_read = True
        except Exception:
            log.warning("cannot read what people want of stream %s", self._name, exc_info=True)

    @asynccontextmanager
    async def obeyed_by(self, walk: Walk) -> AsyncIterator[None]:
        """What was read from the first line on, and what changes meanwhile."""
        self.tell(walk)
        following = asyncio.create_task(self._follow(walk), name=f"control of {self._name}")
        try:
            yield
        finally:
            await end(following)

    async def _follow(self, walk: Walk) -> None:
        while True:
            await self._until_news()
            await self.read()
            self.tell(walk)

    async def _until_news(self) -> None:
        read_at = time.monotonic()
        while self._hints() == self._seen:
            board = installed_board()
            hints = board is not None and board.is_alive
            if time.monotonic() - read_at > (POLL_WITH_HINTS if hints else POLL):
                return
            await asyncio.sleep(HINT_POLL)

    def _hints(self) -> int:
        board = installed_board()
        return 0 if board is None else board.controls(self._name)

    def tell(self, walk: Walk) -> None:
        """Have a walk obey what was read; what cannot be obeyed changes nothing."""
        if not self._was_read:
            return
        written, definition = self._written, self._definition
        try:
            control, refused = self._holding(definition.control.changed_by(written, definition.uncounted)), ""
        except ValueError as error:
            control, refused = walk.control or self._holding(self._definition.control), str(error)
        if refused and refused != self._refused:
            log.error(
                "%s: what was written to XCom deferred_expand.control of run %r is not obeyed: %s",
                self._definition.where, self._store.ref.run_id, refused,
            )  # fmt: skip
        self._refused = refused
        if control != (walk.control or self._holding(self._definition.control)):
            log.warning("A person has changed stream %s: %s", self._name, control.describe())
        walk.obey(control)

    def _holding(self, control: Control) -> Control:
        return control if self._items_run else control.without_max_pending()
