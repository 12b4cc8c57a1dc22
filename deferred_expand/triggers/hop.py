"""``HopTrigger``: one hop of a chain whose sync halves run on workers."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

from deferred_expand import settings
from deferred_expand.airflow_internals.sdk import (
    TRIGGER_FAILURE,
    TRIGGER_TIMEOUT,
    BaseTrigger,
    TriggerEvent,
)
from deferred_expand.exceptions import SourceTimedOut
from deferred_expand.sources.adapters import SourceAdapter, adapter_for
from deferred_expand.sources.chain import Hop
from deferred_expand.sources.hops import ChainOver, HopTimedOut, first_event
from deferred_expand.sources.importing import import_source
from deferred_expand.sources.sealing import unseal
from deferred_expand.triggers.calls import call_in_thread, import_in_thread
from deferred_expand.triggers.sealed import SealedElsewhere, require_seal
from deferred_expand.walking.clock import NO_LIMITS, PageTimedOut, SourceClock, TimeLimits, in_time
from deferred_expand.walking.retry import SourceRetry, is_transient
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class HopTrigger(BaseTrigger):
    """
    Walks the hop's trigger to its event, and hands that to the worker with the hop.

    :param stream: which opening of the stream it belongs to.
    :param hop: cursor of the chain, sealed.
    :param operator: ``"package.module:Class"`` of the chain's operator, where it can be imported
        here; says which adapter prepares the trigger.
    :param retry: JSON of a :class:`~deferred_expand.SourceRetry`.
    :param limits: JSON of :class:`TimeLimits`.
    :param waited: seconds that this try has waited for the source before.
    :param sealed_anew: as in :class:`~deferred_expand.triggers.expansion.Expansion`.
    """

    def __init__(
        self,
        *,
        stream: str,
        hop: str,
        operator: str | None,
        retry: dict[str, Any] | None,
        limits: dict[str, Any] | None = None,
        waited: float = 0.0,
        sealed_anew: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stream = stream
        self.hop = hop
        self.operator = operator
        self.retry = retry
        self.limits = limits
        self.waited = waited
        self.sealed_anew = sealed_anew

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("stream", "hop", "operator", "retry", "limits", "waited", "sealed_anew")
        arguments = {name: getattr(self, name) for name in names}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        loop = asyncio.get_running_loop()
        send_at = loop.time() + (settings.requeue_delay() if self.task_instance else 0.0)
        payload = {"stream": self.stream, "hop": self.hop, "waited": self.waited}
        try:
            await call_in_thread(require_seal, self.hop, self.sealed_anew)
            payload |= await self._walk()
        except SealedElsewhere as asked:
            payload |= asked.to_json(self.stream)
        # Not before the exit of the worker that deferred is noticed: see settings.requeue_delay.
        await asyncio.sleep(max(0.0, send_at - loop.time()))
        yield TriggerEvent(payload)

    async def _walk(self) -> dict[str, Any]:
        thread = Threads("imports")
        try:
            hop, adapter = await import_in_thread(thread, self._find)
        finally:
            thread.close()
        clock = SourceClock(TimeLimits(**self.limits) if self.limits else NO_LIMITS, self.waited)
        outcome = await self._outcome(hop, adapter, clock)
        return {**outcome, "waited": clock.waited}

    def _find(self) -> tuple[Hop, SourceAdapter]:
        hop = Hop.from_cursor(unseal(self.hop))
        hop.find_trigger()
        if self.operator is None:
            return hop, SourceAdapter()
        operator: Any = import_source(self.operator)
        return hop, adapter_for(operator)

    async def _outcome(self, hop: Hop, adapter: SourceAdapter, clock: SourceClock) -> dict[str, Any]:
        """Stops the clock: what comes after that is not the source's."""
        try:
            return await self._ask(hop, adapter, clock)
        except SourceTimedOut as late:
            return {"late": str(late)}
        finally:
            clock.stop()

    async def _ask(self, hop: Hop, adapter: SourceAdapter, clock: SourceClock) -> dict[str, Any]:
        policy = SourceRetry(**self.retry) if self.retry else SourceRetry(attempts=1)
        attempt = 1
        while True:
            trigger = hop.make_trigger()
            adapter.prepare_trigger(trigger)
            clock.start()
            try:
                event = await in_time(first_event(trigger, hop.timeout, self), clock)
                error = adapter.failure_of(trigger, event.payload)
                outcome: dict[str, Any] = {"event": event.payload}
            except ChainOver as over:
                return {"over": over.items}
            except HopTimedOut:
                return {"failed": [TRIGGER_TIMEOUT, None]}
            except SourceTimedOut:
                raise
            except PageTimedOut as late:
                error, outcome = late, {"late": str(late)}
            except Exception as raised:
                error = raised
                outcome = {"failed": [TRIGGER_FAILURE, traceback.format_exception(raised)]}
            if error is None or not is_transient(error) or attempt >= policy.attempts:
                return outcome
            delay = policy.delay(error, attempt)
            if delay is None:
                return outcome
            self.log.warning("The trigger raised %r; it is run again in %g s", error, delay)
            await asyncio.sleep(min(delay, clock.left))
            used_up = clock.used_up()
            if used_up is not None:
                raise used_up
            attempt += 1
