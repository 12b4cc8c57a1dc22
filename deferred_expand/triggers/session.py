"""One trigger's part of a stream: it holds the walk, hands over what is staged, and ends the head."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import ParamSpec

from deferred_expand import settings
from deferred_expand.airflow_internals.sdk import (
    ENDED_STATES,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
    count_task_instances,
    ensure_sync_calls_work_here,
    finished_items,
    is_in_process,
    task_instance_state,
)
from deferred_expand.committing.board import CommitBoard, installed_board
from deferred_expand.committing.stager import XComStager
from deferred_expand.committing.store import StreamStore
from deferred_expand.shaping.pipeline import shape
from deferred_expand.sources.opening import with_own_outcomes
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.handover import PATIENCE, ExpanderHandover, Overtaken
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.policy import WalkPolicy
from deferred_expand.walking.registry import WalkRegistry
from deferred_expand.walking.results import FinishedResults
from deferred_expand.walking.retry import RetryPolicy
from deferred_expand.walking.threads import Threads
from deferred_expand.walking.walk import Walk
from deferred_expand.walking.watchdog import LoopWatchdog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from deferred_expand.shaping.steps import Steps
    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.streams.events import Checkpoint
    from deferred_expand.streams.page import JSON
    from deferred_expand.triggers.expansion import Expansion

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

OVERTAKEN_PAUSE = 5.0  # seconds; a triggerer whose trigger was taken over is told within this time
INSTANCES_WAIT = 30.0  # seconds for the expander to bring back what the scheduler marked REMOVED

# States of an instance whose walk is worth keeping: it waits, or is about to.
_WANTED_STATES = frozenset({"deferred", "scheduled", "queued", "running", "up_for_reschedule"})

_walks = WalkRegistry()
_watchdog = LoopWatchdog()
_threads = Threads("deferred_expand", 16)  # for calls on Airflow, and XCom backends that block


async def call_in_thread(call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call what blocks, on Airflow mostly."""
    return await _threads.run(call, *args, **kwargs)


class StreamSession:
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

    def results(self) -> FinishedResults:
        """What finished items have returned, for the source of this session's walk."""
        walk, ref = self._walk, self._expansion.ref
        if walk is None:
            raise RuntimeError("the walk is not open")
        return FinishedResults(
            lambda: call_in_thread(finished_items, ref.dag_id, ref.run_id, ref.instances_of),
            lambda number: call_in_thread(self._store.read_result, number),
            lambda: walk.given_again,
            walk.hurry,
            waits=not is_in_process(),
        )

    async def walk_inline(self) -> BatchEvent:
        """In ``dag.test()`` only a trigger's first event counts, and nothing runs beside it."""
        committed = await self._read_log()
        if committed is None:
            return BatchEvent.empty(self._expansion.stream)
        walk = self._open_walk(committed.checkpoint, float("inf"), float("inf"))
        walk.start()
        try:
            return await walk.all_batches()
        finally:
            await walk.close()

    async def walk_on(self, try_number: int) -> BatchEvent | TriggerEvent:
        """
        Walk and hand over until the head can end, or a worker is needed.

        :param try_number: of whoever waits.
        :return: what ends the head, or what a worker shall commit.
        """
        loop = asyncio.get_running_loop()
        send_at = loop.time() + settings.requeue_delay()
        while True:
            committed = await self._read_log()
            if committed is None:
                return BatchEvent.empty(self._expansion.stream)
            if committed.ended and self._expansion.for_expander:
                return await self._end_of_head(committed)
            try:
                async with self._hold_walk(committed.checkpoint, try_number) as walk:
                    self._walk = walk
                    handover = self._handover()
                    ended = await handover.run(walk) if handover else None
                    if ended is None:
                        await walk.batches()
                        await asyncio.sleep(max(0.0, send_at - loop.time()))
                        return await walk.batches()
                return await self._end_of_head(ended)
            except Overtaken:
                log.warning("Another triggerer has gone on with this stream; this walk stops")
                await asyncio.sleep(OVERTAKEN_PAUSE)

    async def _read_log(self) -> CommitLog | None:
        """``None`` when the stream this trigger is for is no more: it was cleared meanwhile."""
        committed = await call_in_thread(self._store.read_log)
        return committed if committed and committed.stream == self._expansion.stream else None

    def _handover(self) -> ExpanderHandover | None:
        """``None``: batches go to a worker."""
        expansion = self._expansion
        if not expansion.for_expander or expansion.materialize == "callback":
            return None
        board = installed_board()
        fall_back = expansion.materialize == "auto"
        if board is None or not board.is_alive:
            if fall_back:
                return None
            log.warning(
                "The stream of task %r waits for an expander, and this triggerer has none: see "
                "materialize and [deferred_expand] expander", expansion.ref.task_id,
            )  # fmt: skip
        return ExpanderHandover(
            board or CommitBoard(),
            expansion.ref,
            lambda announcement: call_in_thread(self._store.announce, announcement),
            self._read_log,
            most_items=settings.max_map_length() - 1 if expansion.for_head else sys.maxsize,
            patience=PATIENCE if fall_back else math.inf,
        )

    async def _end_of_head(self, committed: CommitLog) -> BatchEvent | TriggerEvent:
        """
        End the head without a worker, once every committed item has its instance.

        The expander brings back instances that the scheduler took for surplus. A worker has the
        last word when it does not.
        """
        ref, loop = self._expansion.ref, asyncio.get_running_loop()
        if not self._expansion.for_head:
            return TaskSuccessEvent()
        gives_up_at = loop.time() + INSTANCES_WAIT
        while loop.time() < gives_up_at:
            count = await call_in_thread(count_task_instances, ref.dag_id, ref.run_id, ref.instances_of)
            if count > committed.items:
                return TaskSuccessEvent() if committed.items else TaskSkippedEvent()
            await asyncio.sleep(1)
        return BatchEvent.empty(committed.stream)

    def _hold_walk(self, checkpoint: Checkpoint, try_number: int) -> AbstractAsyncContextManager[Walk]:
        return _walks.hold(
            (self._expansion.ref, self._expansion.for_head),
            try_number,
            checkpoint,
            lambda: self._open_walk(checkpoint, settings.walk_ahead(), settings.walk_ahead_bytes()),
            self._is_wanted,
            settings.idle_timeout(),
        )

    async def _is_wanted(self) -> bool:
        """Someone waits for the stream, and it has not gone on without this walk."""
        ref = self._expansion.ref
        waits = ref.walker if self._expansion.for_head else (ref.task_id, -1)
        state = await call_in_thread(task_instance_state, ref.dag_id, ref.run_id, *waits)
        if state not in _WANTED_STATES or self._walk is None:
            return False
        committed = await self._read_log()
        return committed is not None and self._walk.goes_on_from(committed.checkpoint)

    def _open_walk(self, checkpoint: Checkpoint, walk_ahead: float, walk_ahead_bytes: float) -> Walk:
        _watchdog.watch()

        async def open_source(cursor: JSON) -> AsyncGenerator[Any, None]:
            await ensure_sync_calls_work_here()
            opened = self._stream(cursor)
            if self._steps:
                opened = shape(opened, self._steps, _threads)
            async with aclosing(with_own_outcomes(opened)) as items:
                async for item in items:
                    yield item

        max_batch_bytes = settings.max_batch_bytes()
        policy = WalkPolicy(
            batch_size=min(self._expansion.batch_size, self._expansion.max_pending or sys.maxsize),
            batch_interval=self._expansion.batch_interval,
            source_retries=self._expansion.source_retries,
            resumable=self._resumable,
            walk_ahead=walk_ahead,
            walk_ahead_bytes=walk_ahead_bytes,
            max_batch_bytes=max_batch_bytes,
            max_items=self._expansion.max_items or math.inf,
            name=f"source of task {self._expansion.ref.task_id!r} in DAG {self._expansion.ref.dag_id!r}",
            retry=RetryPolicy(**self._expansion.retry) if self._expansion.retry else None,
        )
        stager = XComStager(self._store, _threads, max_batch_bytes)
        self._walk = Walk(open_source, stager, policy, checkpoint, self._pace())
        return self._walk

    def _pace(self) -> Pace | None:
        expansion, ref = self._expansion, self._expansion.ref
        if expansion.max_pending is None and expansion.rate_limit is None:
            return None
        if is_in_process():
            log.info("max_pending and rate_limit do nothing in dag.test(), where tasks run one by one")
            return None
        return Pace(
            expansion.max_pending,
            expansion.rate_limit,
            lambda: call_in_thread(
                count_task_instances, ref.dag_id, ref.run_id, ref.instances_of, states=ENDED_STATES
            ),
        )
