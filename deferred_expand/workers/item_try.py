"""One try of a task instance that runs many items."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from deferred_expand.airflow_internals.columns import Arguments
from deferred_expand.airflow_internals.comms import is_in_process, set_map_index_label
from deferred_expand.airflow_internals.items import shared_comms, tell_events
from deferred_expand.airflow_internals.sdk import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from deferred_expand.airflow_internals.state_store import VALUE_BYTES, keeps_large_values, state_store_of
from deferred_expand.exceptions import ItemsFailed
from deferred_expand.iterating.checkpoints import Checkpoints
from deferred_expand.iterating.engine import Engine
from deferred_expand.iterating.ledger import DONE, FAILURES_KEY, Ledger
from deferred_expand.iterating.limits import LIMITS_KEY
from deferred_expand.iterating.places import HandOver, Item
from deferred_expand.walking.watchdog import LoopWatchdog
from deferred_expand.workers.digests import digest_of
from deferred_expand.workers.item import ItemRunner
from deferred_expand.workers.item_report import failures_of, label_of
from deferred_expand.workers.item_results import publish
from deferred_expand.workers.item_threads import ItemThreads, OneAtATime
from deferred_expand.workers.item_waits import take_outcomes, trigger_of
from deferred_expand.workers.iterate_options import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from deferred_expand.airflow_internals.sdk import MappedOperator
    from deferred_expand.iterating.engine import Tally
    from deferred_expand.iterating.ledger import Unwritten
    from deferred_expand.iterating.limits import Limits
    from deferred_expand.iterating.spool import Row, Spool
    from deferred_expand.workers.iterate_options import IterateOptions

log = logging.getLogger(__name__)

ROW_BYTES = 500  # of a row in the ledger, beside its result
BLOCKED_AFTER = 5.0  # seconds
LAST_ATTEMPTS = 5  # to write down what has ended, when there is nothing else to do
LAST_PAUSE = 2.0  # seconds between them
READ_AT_ONCE = 100  # items
GO_ON = "go_on"  # of the operator, when a trigger has waited in its stead
HAND_OVER = HandOver(after=5.0, most_items=1000, most_bytes=2_000_000)


class ItemTry:
    """
    One try of a task instance.

    :param spool: for what is known of the items.
    :param event: of the trigger that has waited in its stead, if it comes back from there.
    """

    def __init__(
        self,
        mapped: MappedOperator,
        over: Any,
        options: IterateOptions,
        context: Any,
        spool: Spool,
        event: dict[str, Any] | None,
    ) -> None:
        self._mapped, self._over, self._options, self._context = mapped, over, options, context
        self._ti, self._spool, self._event = context["ti"], spool, event
        self._where = {name: getattr(self._ti, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        self._store = state_store_of(context)
        self._ledger = Ledger(self._store, spool, self._ti.max_tries, self._ti.try_number)
        self._largest = None if keeps_large_values() else VALUE_BYTES - ROW_BYTES
        self._here = is_in_process()
        self._supervisor = ItemThreads("supervisor", most=1)
        self._threads = OneAtATime() if self._here else ItemThreads("item", interruption=AirflowTaskTimeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._killed = self._timed_out = self._unstable = False

    async def run(self) -> Any:
        self._loop = asyncio.get_running_loop()
        watchdog = LoopWatchdog(BLOCKED_AFTER, "of all items of its task instance")
        watchdog.watch()
        with shared_comms(self._aside):
            try:
                return await self._run()
            finally:
                watchdog.stop()
                self._threads.close()
                self._supervisor.close()

    async def _run(self) -> Any:
        await self._aside(self._ledger.load)
        if self._event is not None:
            await self._aside(take_outcomes, self._ledger, self._event, self._where, self._largest)
        arguments = await self._aside(Arguments, self._over, self._context)
        if not len(arguments):
            raise AirflowSkipException(f"task {self._ti.task_id!r} has nothing to iterate over")
        limits = await self._aside(self._first_limits)
        own = self._own = self._options.share_of(self._ti.map_index, len(arguments))
        self._runner = ItemRunner(
            self._mapped,
            arguments,
            self._context,
            self._threads,
            timeout=seconds(self._mapped.partial_kwargs.get("execution_timeout")),
            largest=self._largest,
        )
        self._engine = Engine(
            self._runner.run, self._ledger, limits, len(own), self._options.retry, self._hand_over()
        )
        if self._killed:
            self._end_now()
        with self._instance_timeout():
            tally = await self._iterate(self._engine, self._items(arguments, own))
        return await self._finish(tally)

    def _hand_over(self) -> HandOver | None:
        """``None``: who waits is waited for here, as in ``dag.test()`` there is nothing to be freed."""
        elsewhere = (self._event or {}).get("not_here")
        if elsewhere is not None:
            log.warning("No triggerer can wait for the items (%s), so they are waited for here", elsewhere)
        return None if self._here or elsewhere is not None else HAND_OVER

    @property
    def _time_left(self) -> float | None:
        """Seconds of ``instance_timeout``, those before a deferral counted."""
        if self._options.instance_timeout is None:
            return None
        over: datetime = self._ti.start_date + self._options.instance_timeout
        return max(0.0, (over - datetime.now(tz=timezone.utc)).total_seconds())

    @contextmanager
    def _instance_timeout(self) -> Iterator[None]:
        """On the loop: raised by a signal, as Airflow has it, it would be taken for an item's error."""
        left = self._time_left
        if left is None or self._loop is None:
            yield
            return
        timer = self._loop.call_later(left, self._time_is_over)
        try:
            yield
        finally:
            timer.cancel()

    def _time_is_over(self) -> None:
        self._timed_out = True
        self._end_now()

    async def _iterate(self, engine: Engine, items: AsyncIterator[Item]) -> Tally:
        checkpoints = Checkpoints(
            self._ledger, self._write, self._options.checkpoint, engine.tally.to_json, self._between
        )
        writing = asyncio.create_task(checkpoints.run(), name="checkpoints")
        try:
            return await engine.run(items, checkpoints)
        finally:
            checkpoints.stop()
            await writing
            await self._write_last(engine.tally, complete=False)

    async def _items(self, arguments: Arguments, own: range) -> AsyncIterator[Item]:
        left = {index: None for index in self._ledger.left_waiting() if index in own}
        others = [index for index in own if index not in left] if left else own
        for indexes in (list(left), others):
            for start in range(0, len(indexes), READ_AT_ONCE):
                for item in await self._aside(self._read, arguments, indexes[start : start + READ_AT_ONCE]):
                    yield item

    def _read(self, arguments: Arguments, indexes: Sequence[int]) -> list[Item]:
        items = []
        for index in indexes:
            given = arguments.read(index)
            items.append(Item(index, digest_of(given), given))
            if not items[-1].digest and not self._unstable:
                self._unstable = True
                log.warning(
                    "What item %d is given has no form that is the same in every process: whether it has "
                    "changed is not seen, and it counts by its index alone", index,
                )  # fmt: skip
        return items

    # -- Airflow -----------------------------------------------------------------------------------

    async def _aside(self, call: Callable[..., Any], /, *arguments: Any) -> Any:
        """Where it blocks nobody; in ``dag.test()`` the supervisor answers this thread alone."""
        if self._here:
            return call(*arguments)
        return await self._supervisor.run(call, *arguments)

    async def _write(
        self, unwritten: Unwritten, progress: dict[str, Any] | None, *, complete: bool = False
    ) -> None:
        await self._aside(lambda: self._ledger.write(unwritten, progress, complete=complete))

    async def _write_last(self, tally: Tally, *, complete: bool) -> None:
        for attempt in range(1, LAST_ATTEMPTS + 1):
            unwritten = self._ledger.take_unwritten()
            try:
                await self._write(unwritten, tally.to_json(), complete=complete)
                await self._aside(self._store.set, FAILURES_KEY, tally.failures_to_json())
            except Exception as error:
                if attempt == LAST_ATTEMPTS:
                    raise
                log.warning("What has ended cannot be written down (%s), and is tried again", error)
                await asyncio.sleep(LAST_PAUSE)
            else:
                self._ledger.note_written(unwritten)
                return

    async def _between(self) -> None:
        """At a checkpoint: what a person has changed, and what people see."""
        engine = self._engine
        written = await self._aside(self._store.get, LIMITS_KEY)
        try:
            engine.change(self._options.limits.changed_by(written or {}))
        except (TypeError, ValueError) as error:
            log.warning("%s of the task state store is not obeyed: %s", LIMITS_KEY, error)
        await self._aside(set_map_index_label, self._context, label_of(engine.tally))

    def _first_limits(self) -> Limits:
        written = self._store.get(LIMITS_KEY)
        if written is None:
            self._store.set(LIMITS_KEY, self._options.limits.to_json())
            return self._options.limits
        try:
            return self._options.limits.changed_by(written)
        except (TypeError, ValueError) as error:
            raise AirflowFailException(f"{LIMITS_KEY} of the task state store: {error}") from error

    # -- the end -----------------------------------------------------------------------------------

    def kill(self) -> None:
        """Called between any two steps of the loop's thread, which may be before or after there is a loop."""
        self._killed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_now)

    def _end_now(self) -> None:
        if hasattr(self, "_engine"):
            self._runner.kill()
            self._engine.end_early("the task instance is to end", now=True)

    async def _finish(self, tally: Tally) -> Any:
        """
        :raises ItemsFailed: the next try runs what is not done.
        :raises AirflowFailException: no other try of this clear would do better.
        """
        await self._aside(set_map_index_label, self._context, label_of(tally))
        ti, limits = self._ti, self._engine.limits
        told = f"task {ti.task_id!r} in DAG {ti.dag_id!r}, run {ti.run_id!r}: {label_of(tally)}"
        told += failures_of(tally)
        exceeds = partial(limits.tolerance.is_exceeded, ended=tally.ended, total=tally.total)
        if exceeds(tally.for_good):
            raise AirflowFailException(f"{told}; no retry runs them again")
        if self._timed_out:
            raise AirflowTaskTimeout(f"{told}; instance_timeout is {self._options.instance_timeout}")
        if tally.ended_early and not tally.waiting:
            raise (AirflowFailException if limits.stop else ItemsFailed)(f"{told}; {tally.ended_early}")
        if tally.waiting:
            self._defer(tally)
        is_last = ti.try_number > ti.max_tries
        if tally.failed > tally.for_good and (not is_last or exceeds(tally.failed)):
            raise ItemsFailed(told)
        return await self._succeed(tally, told)

    def _defer(self, tally: Tally) -> NoReturn:
        interval, left = self._options.limits_interval, self._time_left
        until = time.time() + (interval if left is None else min(interval, left))
        log.info("%s; a triggerer waits for the others meanwhile", label_of(tally))
        trigger = trigger_of(tally.waiting, self._where, until)
        raise TaskDeferred(trigger=trigger, method_name=GO_ON)

    async def _succeed(self, tally: Tally, told: str) -> Any:
        if tally.failed:
            log.warning("%s, which is tolerated", told)
        await self._aside(publish, self._ended_well(), self._where)
        await self._write_last(tally, complete=True)
        return {
            **tally.to_json(),
            "failures": tally.failures_to_json(),
            "results": f"are read by a task that is given the output of {self._ti.task_id!r}",
        }

    def _ended_well(self) -> Iterator[Row]:
        """Of the items that it runs, in their order; what they have told of outlets is told."""
        for row in self._spool:
            if row.outcome == DONE and row.index in self._own:
                tell_events(self._context, (row.beside or {}).get("events", []))
                yield row
