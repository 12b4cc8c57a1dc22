"""Walking an operator's chain in the triggerer, hop by hop."""

from __future__ import annotations

import asyncio
import logging
import traceback
from contextlib import aclosing, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from deferred_expand.airflow_internals.comms import ensure_sync_calls_work_here
from deferred_expand.airflow_internals.sdk import (
    TRIGGER_FAILURE,
    TRIGGER_TIMEOUT,
    AirflowRescheduleException,
    BaseTaskEndEvent,
    TriggerEvent,
)
from deferred_expand.exceptions import SourceError, SourceFailed, SourceSkipped
from deferred_expand.sources.adapters import SourceAdapter, items_of
from deferred_expand.sources.chain import HOP_VERSION, Hop, HopResult
from deferred_expand.streams.page import JSON, Page
from deferred_expand.walking.retry import is_transient
from deferred_expand.walking.tasks import end
from deferred_expand.walking.threads import WantsToExit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from deferred_expand.airflow_internals.sdk import BaseTrigger
    from deferred_expand.sources.chain import OperatorChain
    from deferred_expand.walking.threads import Threads

log = logging.getLogger(__name__)

R = TypeVar("R")

OVER: JSON = {"version": HOP_VERSION, "over": True}
"""The cursor after the last hop: nothing is to be asked again."""


class ChainOver(Exception):
    """A trigger has ended the task by itself, with success."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def items(self) -> list[Any]:
        """Where the operator is a source."""
        return items_of(self.value)


class HopTimedOut(Exception):
    """A hop's trigger sent no event within the time-out of its deferral."""


class Runs(Protocol):
    """Threads, as far as they are needed here."""

    async def run(self, call: Callable[..., R], /, *arguments: Any) -> R:
        """Make a call that blocks."""


class Chain(Protocol):
    """The sync halves of an operator's hops. They block."""

    adapter: SourceAdapter

    def begin(self) -> HopResult:
        """The first half of the first hop."""

    def resume(self, hop: Hop, event: Any) -> HopResult:
        """The second half of a hop, to the next deferral or to the end."""

    def fail(self, reason: str, traceback: list[str] | None) -> NoReturn:
        """Tell the operator that its trigger failed; raises what it raises."""

    def end(self, over: ChainOver) -> list[Any]:
        """What a trigger that has ended the task gives."""


async def walk_chain(
    chain: OperatorChain, cursor: JSON, thread: Threads, outer: BaseTrigger | None
) -> AsyncGenerator[Page, None]:
    """
    Give each hop's items as a page, with what the chain does next as its cursor.

    A loop over hops that keeps nothing but the last one, however many there are.

    :param thread: for the sync halves.
    :param outer: whose identity the chain's triggers take on.
    """
    if cursor == OVER:
        return
    hop = Hop.from_cursor(cursor) if isinstance(cursor, dict) else None
    while True:
        done = await step(chain, hop, thread, outer)
        if done.next is None:
            yield Page(done.items, cursor=OVER)
            return
        hop = done.next
        yield Page(done.items, cursor=hop.to_cursor())


async def walk_reader(
    chain: OperatorChain, cursor: JSON, thread: Threads, outer: BaseTrigger | None
) -> AsyncGenerator[Page, None]:
    """Give the pages of an operator whose adapter ``reads``; the cursor is how many items were read."""
    if not await thread.run(chain.can_read):
        async with aclosing(walk_chain(chain, cursor, thread, outer)) as given_by_hops:
            async for page in given_by_hops:
                yield page
        return
    passed_over = cursor["read"] if isinstance(cursor, dict) else 0
    read = 0
    async with aclosing(thread.iterate(iter(await thread.run(chain.read)))) as given:
        async for pages in given:
            for rows in pages:
                items = rows[max(0, passed_over - read) :]
                read += len(rows)
                if items:
                    yield Page(items, cursor={"version": HOP_VERSION, "read": read})


async def step(
    chain: Chain,
    hop: Hop | None,
    thread: Runs,
    outer: BaseTrigger | None,
    outcome: dict[str, Any] | None = None,
) -> HopResult:
    """
    From one deferral of an operator to the next, or to its end; ``None``: from its beginning.

    :param outcome: of the hop, if another process has waited for it; see :func:`hop_outcome`.
    """
    while True:
        try:
            if hop is None:
                return await thread.run(chain.begin)
            told, outcome = outcome, None
            if told is None:
                event = await hop_event(chain, hop, thread, outer)
            else:
                event = await event_of(told, chain, thread)
            return await thread.run(chain.resume, hop, event)
        except ChainOver as over:
            return HopResult(chain.end(over), None)
        except AirflowRescheduleException as reschedule:
            pause = (reschedule.reschedule_date - datetime.now(tz=timezone.utc)).total_seconds()
            log.info("The operator asks to come back in %.0f s", pause)
            await asyncio.sleep(max(0.0, pause))


async def hop_event(chain: Chain, hop: Hop, thread: Runs, outer: BaseTrigger | None) -> Any:
    """
    The payload of the event that ends a hop.

    :raises Exception: what the operator makes of a trigger that fails or times out; a transient
        error of the trigger as it is, for the walk to ask again.
    """
    await thread.run(hop.find_trigger)
    trigger = hop.make_trigger()
    chain.adapter.prepare_trigger(trigger)
    try:
        event = await first_event(trigger, hop.timeout, outer)
    except HopTimedOut:
        await thread.run(chain.fail, TRIGGER_TIMEOUT, None)
    except (ChainOver, SourceError):
        raise
    except Exception as error:
        if is_transient(error):
            raise
        lines = await thread.run(traceback.format_exception, error)  # reads source files
        await thread.run(chain.fail, TRIGGER_FAILURE, lines)
    else:
        failure = chain.adapter.failure_of(trigger, event.payload)
        if failure is not None and is_transient(failure):
            raise failure
        return event.payload


async def hop_outcome(hop: Hop, outer: BaseTrigger) -> dict[str, Any] | None:
    """
    How a hop has ended, for another process, which goes on with it.

    :return: ``None``: by a transient error; it is to be asked again there.
    """
    try:
        return {"event": (await first_event(hop.make_trigger(), hop.timeout, outer)).payload}
    except ChainOver as over:
        return {"over": over.value}
    except HopTimedOut:
        return {"failed": [TRIGGER_TIMEOUT, None]}
    except SourceSkipped as skipped:
        return {"skipped": str(skipped)}
    except SourceFailed as failed:
        return {"ended": str(failed)}
    except Exception as error:
        if is_transient(error):
            log.warning("A trigger raised %r; it is run again", error)
            return None
        return {"failed": [TRIGGER_FAILURE, traceback.format_exception(error)]}


async def event_of(outcome: dict[str, Any], chain: Chain, thread: Runs) -> Any:
    """
    The payload of the event, where there was one.

    :raises Exception: as :func:`hop_event` does.
    """
    if "over" in outcome:
        raise ChainOver(outcome["over"])
    if "skipped" in outcome:
        raise SourceSkipped(outcome["skipped"])
    if "ended" in outcome:
        raise SourceFailed(outcome["ended"])
    if "failed" in outcome:
        await thread.run(chain.fail, *outcome["failed"])
    return outcome["event"]


async def first_event(trigger: BaseTrigger, timeout: float | None, outer: BaseTrigger | None) -> TriggerEvent:
    """
    Run a trigger until it sends an event, as the triggerer does (airflow/jobs/triggerer_job_runner.py).

    :raises HopTimedOut: none came within ``timeout`` seconds.
    """
    if outer is not None:
        trigger.trigger_id = outer.trigger_id
        with suppress(Exception):  # of no use to most triggers, and not settable on some
            trigger.task_instance = outer.task_instance
    task = asyncio.create_task(_first(trigger), name=f"trigger {type(trigger).__name__}")
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if not done:
            raise HopTimedOut
        if task.cancelled():
            raise RuntimeError("Trigger was cancelled by what it awaits")
        event = task.result()
    finally:
        try:
            await end(task)
        finally:
            await trigger.cleanup()
    if isinstance(event, BaseTaskEndEvent):
        _end(event)
    return event


async def _first(trigger: BaseTrigger) -> TriggerEvent:
    await ensure_sync_calls_work_here()
    events = trigger.run()
    try:
        async for event in events:
            return event
    except SystemExit as error:  # this is a task of the event loop
        raise WantsToExit(f"it called sys.exit({error.code!r})") from error
    finally:
        if hasattr(events, "aclose"):
            await events.aclose()
    raise RuntimeError("Trigger exited without sending an event")


def _end(event: BaseTaskEndEvent) -> NoReturn:
    """An event that ends its task without the operator."""
    state = str(event.task_instance_state.value)
    if state == "success":
        raise ChainOver((event.xcoms or {}).get("return_value"))
    if state == "skipped":
        raise SourceSkipped("a trigger of the source has skipped the task")
    raise SourceFailed(f"a trigger of the source has ended the task as {state}")


async def walk_trigger(make_trigger: Callable[[], BaseTrigger]) -> AsyncGenerator[Any, None]:
    """A trigger as a source: each event's payload is an item, or a page."""
    trigger = make_trigger()
    events = trigger.run()
    try:
        if hasattr(events, "aclose"):
            async with aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    yield event.payload
        else:
            async for event in events:
                yield event.payload
    finally:
        await trigger.cleanup()
