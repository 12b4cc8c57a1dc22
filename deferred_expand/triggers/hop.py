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
from deferred_expand.sources.adapters import SourceAdapter, adapter_for
from deferred_expand.sources.chain import Hop
from deferred_expand.sources.hops import ChainOver, HopTimedOut, first_event
from deferred_expand.sources.importing import import_source
from deferred_expand.triggers.calls import import_in_thread
from deferred_expand.walking.retry import SourceRetry, is_transient
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class HopTrigger(BaseTrigger):
    """
    Walks the hop's trigger to its event, and hands that to the worker with the hop.

    :param stream: which opening of the stream it belongs to.
    :param hop: cursor of the chain.
    :param operator: ``"package.module:Class"`` of the chain's operator, where it can be imported
        here; says which adapter prepares the trigger.
    :param retry: JSON of a :class:`~deferred_expand.SourceRetry`.
    """

    def __init__(
        self, *, stream: str, hop: dict[str, Any], operator: str | None, retry: dict[str, Any] | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stream = stream
        self.hop = hop
        self.operator = operator
        self.retry = retry

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"stream": self.stream, "hop": self.hop, "operator": self.operator, "retry": self.retry},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        loop = asyncio.get_running_loop()
        send_at = loop.time() + (settings.requeue_delay() if self.task_instance else 0.0)
        thread = Threads("imports")
        try:
            hop, adapter = await import_in_thread(thread, self._find)
        finally:
            thread.close()
        outcome = await self._outcome(hop, adapter)
        # Not before the exit of the worker that deferred is noticed: see settings.requeue_delay.
        await asyncio.sleep(max(0.0, send_at - loop.time()))
        yield TriggerEvent({"stream": self.stream, "hop": self.hop, **outcome})

    def _find(self) -> tuple[Hop, SourceAdapter]:
        hop = Hop.from_cursor(self.hop)
        hop.find_trigger()
        if self.operator is None:
            return hop, SourceAdapter()
        operator: Any = import_source(self.operator)
        return hop, adapter_for(operator)

    async def _outcome(self, hop: Hop, adapter: SourceAdapter) -> dict[str, Any]:
        policy = SourceRetry(**self.retry) if self.retry else SourceRetry(attempts=1)
        attempt = 1
        while True:
            trigger = hop.make_trigger()
            adapter.prepare_trigger(trigger)
            try:
                event = await first_event(trigger, hop.timeout, self)
                error = adapter.failure_of(trigger, event.payload)
                outcome: dict[str, Any] = {"event": event.payload}
            except ChainOver as over:
                return {"over": over.items}
            except HopTimedOut:
                return {"failed": [TRIGGER_TIMEOUT, None]}
            except Exception as raised:
                error = raised
                outcome = {"failed": [TRIGGER_FAILURE, traceback.format_exception(raised)]}
            if error is None or not is_transient(error) or attempt >= policy.attempts:
                return outcome
            delay = policy.delay(error, attempt)
            if delay is None:
                return outcome
            self.log.warning("The trigger raised %r; it is run again in %g s", error, delay)
            await asyncio.sleep(delay)
            attempt += 1
