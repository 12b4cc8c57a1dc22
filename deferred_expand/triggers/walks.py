"""How the walk of a stream is opened in a triggerer: its source, policy, pace, and where batches go."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from deferred_expand import settings
from deferred_expand.airflow_internals.comms import ensure_sync_calls_work_here, is_in_process
from deferred_expand.committing.finished import finished_results
from deferred_expand.committing.stager import XComStager
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import NothingRuns
from deferred_expand.shaping.pipeline import shape
from deferred_expand.sources.opening import with_own_outcomes
from deferred_expand.triggers.calls import call_in_thread, shared_threads
from deferred_expand.triggers.counts import count_finished
from deferred_expand.triggers.failing_fast import watch_items
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.policy import WalkPolicy
from deferred_expand.walking.threads import Threads
from deferred_expand.walking.turns import StagerInTurn, in_turn
from deferred_expand.walking.walk import Walk
from deferred_expand.walking.watchdog import LoopWatchdog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from deferred_expand.shaping.steps import Steps
    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.streams.page import JSON
    from deferred_expand.triggers.expansion import Expansion
    from deferred_expand.walking.drive import Guard
    from deferred_expand.walking.results import FinishedResults
    from deferred_expand.walking.staging import Stager

log = logging.getLogger(__name__)

_watchdog = LoopWatchdog()


class WalkOpener:
    """
    :param stream: opens the source after a cursor.
    :param resumable: it can be entered in the middle; otherwise it is walked from the start again.
    :param steps: that shape its items.
    """

    def __init__(
        self,
        expansion: Expansion,
        stream: Callable[[JSON], AsyncIterator[Any]],
        *,
        resumable: bool,
        steps: Steps = (),
    ) -> None:
        self._expansion = expansion
        self._stream = stream
        self._resumable = resumable
        self._steps = steps
        self._store = StreamStore(expansion.ref)
        self._walk: Walk | None = None
        self._items_run = True
        # In dag.test() there are no comms while a call is answered (airflow/sdk/execution_time/supervisor.py,
        # ``InProcessSupervisorComms.send``): in a second thread it would find none.
        self._turn = asyncio.Lock() if is_in_process() else None

    def open(
        self, committed: CommitLog, *, limited: bool = True, items_run: bool = True, waited: float = 0.0
    ) -> Walk:
        """
        A walk from the last commit that is not started yet.

        :param limited: it may not be far ahead of what is committed.
        :param items_run: items run while it is under way, so that it may wait for them.
        :param waited: seconds that this try of the stream head has waited for the source before.
        """
        _watchdog.watch()
        self._items_run = items_run
        policy = self._policy(limited, committed.ends_at(self._expansion.definition.max_duration))
        checkpoint = committed.checkpoint
        stager: Stager = XComStager(self._store, checkpoint.stream, policy.max_batch_bytes)
        if self._turn is not None:
            stager = StagerInTurn(stager, self._turn)
        pace = self._pace(items_run)
        self._walk = Walk(self._open_source, stager, policy, checkpoint, pace, self._guard(), waited)
        return self._walk

    def results(self, thread: Threads) -> FinishedResults:
        """
        What finished items have returned, for the source of the walk that was opened here.

        :param thread: the source's, for XCom backends that block.
        :raises NothingRuns: before the end of the stream.
        """
        walk, definition = self.walk, self._expansion.definition
        if definition.group is not None and (not self._items_run or is_in_process()):
            raise NothingRuns(
                f"{definition.where}: the source takes results, and none of task group "
                f"{definition.group.group_id!r} runs before the stream has ended: in dag.test(), on SQLite, "
                "with materialize='callback' and without an expander Airflow expands it then"
            )
        return finished_results(
            self._expansion.ref,
            thread,
            lambda: walk.given_again,
            walk.hurry,
            asking=shared_threads,
            outside=walk.clock.stopped,
        )

    @property
    def walk(self) -> Walk:
        """The one that was opened here."""
        if self._walk is None:
            raise RuntimeError("the walk is not open")
        return self._walk

    async def _open_source(self, cursor: JSON) -> AsyncGenerator[Any, None]:
        await ensure_sync_calls_work_here()
        thread = Threads("steps", reads_ahead=self._turn is None)
        try:
            opened = self._stream(cursor)
            if self._steps:
                opened = shape(opened, self._steps, thread, self.walk.clock.hear)
            items = with_own_outcomes(opened)
            async with aclosing(in_turn(items, self._turn) if self._turn else items) as given:
                async for item in given:
                    yield item
        finally:
            thread.close()

    def _policy(self, limited: bool, ends_at: float | None) -> WalkPolicy:
        definition, unit = self._expansion.definition, self._expansion.definition.unit
        return WalkPolicy(
            batch_size=min(definition.batch_size, (definition.max_pending or sys.maxsize) * unit.size),
            batch_interval=definition.batch_interval,
            source_retries=definition.source_retries,
            resumable=self._resumable,
            walk_ahead=settings.walk_ahead() if limited else math.inf,
            walk_ahead_bytes=settings.walk_ahead_bytes() if limited else math.inf,
            max_batch_bytes=settings.max_batch_bytes(),
            max_items=(definition.max_items or math.inf) * unit.size,
            retry=definition.retry,
            limits=definition.limits,
            unit=unit,
            ends_at=ends_at,
        )

    def _guard(self) -> Guard | None:
        expansion = self._expansion
        if not expansion.for_head or is_in_process():
            return None
        return partial(watch_items, expansion, lambda: self.walk.control or expansion.definition.control)

    def _pace(self, items_run: bool) -> Pace:
        definition = self._expansion.definition
        pending = definition.max_pending if items_run else None
        if is_in_process():
            if pending is not None or definition.rate_limit is not None:
                log.info("max_pending and rate_limit do nothing in dag.test(), where tasks run one by one")
            return Pace()
        size = definition.unit.size  # windows count as full ones, here as in the walk

        async def finished() -> int:
            return size * await call_in_thread(count_finished, definition, self._expansion.run_id)

        return Pace(None if pending is None else pending * size, definition.rate_limit, finished)
