"""One item, from its arguments to its end."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from deferred_expand.airflow_internals.items import (
    SharedParts,
    call_hooks_after,
    call_hooks_before,
    enter_item,
    execute_async,
    is_async,
    make_item,
    pack_events,
)
from deferred_expand.airflow_internals.sdk import (
    DEFERRAL_FAILED,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
    redact,
)
from deferred_expand.committing.codec import encode_item
from deferred_expand.exceptions import ResultTooLarge, SourceSkipped
from deferred_expand.iterating.engine import Ended
from deferred_expand.iterating.ledger import DONE, FAILED, SKIPPED
from deferred_expand.sources.adapters import SourceAdapter
from deferred_expand.sources.chain import HopResult, hop_of
from deferred_expand.sources.hops import step
from deferred_expand.walking.tasks import end
from deferred_expand.walking.threads import WantsToExit
from deferred_expand.workers.item_threads import InOneGo, ItemThreads
from deferred_expand.workers.item_waits import ItemWait

if TYPE_CHECKING:
    from collections.abc import Callable

    from deferred_expand.airflow_internals.columns import Arguments
    from deferred_expand.airflow_internals.sdk import BaseOperator, MappedOperator
    from deferred_expand.iterating.places import Item, ItemPlace
    from deferred_expand.sources.chain import Hop
    from deferred_expand.sources.hops import ChainOver, Runs

log = logging.getLogger(__name__)

R = TypeVar("R")

MESSAGE_LENGTH = 400  # of an error, as it is written down
# What Airflow tries no other time (airflow/sdk/execution_time/task_runner.py).
_FOR_GOOD = (AirflowFailException, AirflowSensorTimeout)


class ItemRunner:
    """
    Runs the items of one task instance.

    :param outer: the context of the instance.
    :param timeout: seconds that each item may take, its waits included.
    :param largest: bytes of a result that can be written down; ``None``: there is no limit.
    :ivar live: the operators of the items that run.
    """

    def __init__(
        self,
        mapped: MappedOperator,
        arguments: Arguments,
        outer: Any,
        threads: Runs,
        timeout: float | None,
        largest: int | None,
    ) -> None:
        self.live: dict[int, BaseOperator] = {}
        self._mapped, self._arguments, self._outer = mapped, arguments, outer
        self._threads, self._timeout, self._largest = threads, timeout, largest
        self._beginning = InOneGo(threads) if isinstance(threads, ItemThreads) else threads
        self._shared = SharedParts(mapped)
        self._keeps_results = bool(mapped.partial_kwargs.get("do_xcom_push", True))

    async def run(self, item: Item, place: ItemPlace) -> Ended:
        """To its end; it raises nothing, and may be cancelled."""
        ends, left = self._time_of(item)
        task = asyncio.create_task(self._run(item, place, ends), name=f"item {item.index}")
        try:
            done, _ = await asyncio.wait({task}, timeout=left)
            if not done:
                await end(task)
            return self._ended(item.index, task, timed_out=not done)
        finally:
            await end(task)
            place.go_on()
            self.live.pop(item.index, None)

    def _time_of(self, item: Item) -> tuple[float | None, float | None]:
        """:return: when its time is over, in seconds since the epoch, and the seconds that are left."""
        if self._timeout is None:
            return None, None
        kept, now = item.kept or {}, time.time()
        ends = kept.get("ends") or now + self._timeout
        return ends, max(0.0, ends - kept.get("at", now))

    async def _run(self, item: Item, place: ItemPlace, ends: float | None) -> tuple[Any, ItemChain]:
        try:
            return await self._execute(item, place, ends)
        except SystemExit as error:  # it would end the loop, and with it all other items
            raise WantsToExit(f"it called sys.exit({error.code!r})") from error

    async def _execute(self, item: Item, place: ItemPlace, ends: float | None) -> tuple[Any, ItemChain]:
        with place.busy():
            chain = await self._beginning.run(self._begin, item)
        threads = _BusyThreads(self._threads, place)
        if is_async(chain.task) and item.kept is None:
            enter_item(chain.task, chain.context)
            call_hooks_before(chain.task, chain.context)
            result = await execute_async(chain.task, chain.context)
            call_hooks_after(chain.task, chain.context, result)
            return result, chain
        enter_item(chain.task, chain.context)
        return await self._walk(chain, item, place, threads, ends), chain

    async def _walk(
        self, chain: ItemChain, item: Item, place: ItemPlace, threads: _BusyThreads, ends: float | None
    ) -> Any:
        wait = ItemWait(chain.context, ends, self._largest)
        hop, outcome, kept = None, None, item.kept
        if kept is not None:
            hop, outcome = await threads.run(wait.restore, kept)
        while True:
            if kept is not None and outcome is None:
                await place.wait(kept)
            done = await step(chain, hop, threads, None, outcome)
            place.go_on()
            if done.next is None:
                return done.items[0] if done.items else None
            hop, outcome = done.next, None
            kept = wait.keep(hop)

    def _begin(self, item: Item) -> ItemChain:
        arguments, data = self._arguments.finish(item.given)
        task, context = make_item(self._mapped, self._outer, item.index, arguments, data, self._shared)
        self.live[item.index] = task
        return ItemChain(task, context)

    def _ended(self, index: int, task: asyncio.Task[Any], *, timed_out: bool) -> Ended:
        if timed_out:
            return self._failed(
                index, AirflowTaskTimeout(f"it took longer than its execution_timeout, {self._timeout:g} s")
            )
        if task.cancelled():
            return self._failed(index, RuntimeError("it was cancelled by what it awaits"))
        error = task.exception()
        if error is None:
            return self._done(index, *task.result())
        if isinstance(error, (AirflowSkipException, SourceSkipped)):
            return Ended(SKIPPED, str(error))
        return self._failed(index, error)

    def _done(self, index: int, result: Any, chain: ItemChain) -> Ended:
        beside: dict[str, Any] = {}
        try:
            text = encode_item(result, index) if self._keeps_results else None
            if pushed := chain.context["ti"].pushed:
                beside["xcoms"] = {key: encode_item(value, index) for key, value in pushed.items()}
            if events := pack_events(chain.context):
                beside["events"] = events
            if self._largest is not None and (size := len(json.dumps([text, beside]))) > self._largest:
                raise ResultTooLarge(
                    f"its result is {size:,} bytes, more than the {self._largest:,} that Airflow's task "
                    "state store takes: set [workers] state_store_backend, which keeps large values "
                    "elsewhere, or return less"
                )
        except Exception as error:
            return self._failed(index, error)
        return Ended(DONE, text, beside or None)

    def _failed(self, index: int, error: BaseException) -> Ended:
        lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        log.error("Item %d of task %r failed:\n%s", index, self._mapped.task_id, lines)
        message = str(redact(f"{type(error).__name__}: {error}"))[:MESSAGE_LENGTH]
        return Ended(FAILED, message, error=error, for_good=isinstance(error, _FOR_GOOD))

    def kill(self) -> None:
        """Tell each item that runs."""
        for task in list(self.live.values()):
            threading.Thread(target=task.on_kill, name="item-on-kill", daemon=True).start()


class _BusyThreads:
    """Threads for one item, whose place is busy meanwhile."""

    def __init__(self, threads: Runs, place: ItemPlace) -> None:
        self._threads, self._place = threads, place

    async def run(self, call: Callable[..., R], /, *arguments: Any) -> R:
        with self._place.busy():
            return await self._threads.run(call, *arguments)


class ItemChain:
    """
    The sync halves of an item's hops, as ``OperatorChain`` has those of a source; a whole operator is
    one of no hops.
    """

    def __init__(self, task: BaseOperator, context: dict[str, Any]) -> None:
        self.task, self.context = task, context
        self.adapter = SourceAdapter()  # nothing is done otherwise than by Airflow

    def begin(self) -> HopResult:
        return self._run(lambda: self.task.execute(self.context))  # type: ignore[arg-type]

    def resume(self, hop: Hop, event: Any) -> HopResult:
        arguments = {**hop.kwargs, "event": event}
        return self._run(lambda: self.task.resume_execution(hop.method, arguments, self.context))  # type: ignore[arg-type]

    def fail(self, reason: str, lines: list[str] | None) -> NoReturn:
        self.task.resume_execution(DEFERRAL_FAILED, {"error": reason, "traceback": lines}, self.context)  # type: ignore[arg-type]
        raise RuntimeError(f"the operator has taken no notice of its trigger's failure: {reason}")

    def end(self, over: ChainOver) -> list[Any]:
        return [over.value]

    def _run(self, call: Callable[[], Any]) -> HopResult:
        enter_item(self.task, self.context)
        call_hooks_before(self.task, self.context)
        try:
            result = call()
        except TaskDeferred as deferred:
            return HopResult([], hop_of(deferred, {}))
        call_hooks_after(self.task, self.context, result)
        return HopResult([result], None)
