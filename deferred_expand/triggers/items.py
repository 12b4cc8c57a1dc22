"""``ItemsTrigger``: waits in the stead of a task instance whose items all wait."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from deferred_expand import settings
from deferred_expand.airflow_internals.sdk import TRIGGER_FAILURE, BaseTrigger, TriggerEvent, XCom
from deferred_expand.sources.chain import Hop
from deferred_expand.sources.hops import hop_outcome
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.triggers.calls import call_in_thread, import_in_thread
from deferred_expand.triggers.sealed import require_seal
from deferred_expand.walking.tasks import end
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Outcome = tuple[int, str, float]
    """Of an item: by index, sealed, and when it was, in seconds since the epoch."""

GATHER = 5.0  # seconds after the first event, for others to come, before a worker is asked to go on;
GATHER_SHARE = 0.1  # or this share of the time that it has taken to come, if that is longer
BYTES_AT_ONCE = 1_000_000


class _NotHere(Exception):
    """The triggers cannot run here."""


class ItemsTrigger(BaseTrigger):
    """
    Runs the triggers of items, and lets the worker go on with those that have fired.

    It ends when all have; some seconds after the first of them has; or when the task instance shall
    look after itself.

    :param where: the task instance, of which events become XComs.
    :param name: of those XComs.
    :param waiting: for each item its index, its hop, sealed, until when the hop may take, and the item.
    :param until: when to end in any case. All times are in seconds since the epoch.
    """

    def __init__(self, *, where: dict[str, Any], name: str, waiting: list[list[Any]], until: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where, self.name, self.waiting, self.until = where, name, waiting, until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("where", "name", "waiting", "until")
        arguments = {name: getattr(self, name) for name in names}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        loop = asyncio.get_running_loop()
        send_at = loop.time() + (settings.requeue_delay() if self.task_instance else 0.0)
        payload: dict[str, Any] = {"name": self.name}
        try:
            payload["chunks"] = await self._wait()
        except _NotHere as error:
            payload["not_here"] = str(error)
        # Not before the exit of the worker that deferred is noticed: see settings.requeue_delay.
        await asyncio.sleep(max(0.0, send_at - loop.time()))
        yield TriggerEvent(payload)

    async def _wait(self) -> int:
        """:return: how many XComs there are with outcomes."""
        thread = Threads("items")
        try:
            hops = await self._hops(thread)
            tasks = [asyncio.create_task(self._outcome(*one), name=f"item {one[0]}") for one in hops]
            try:
                await self._until_worth_a_worker(set(tasks))
                outcomes = [task.result() for task in tasks if task.done()]
            finally:
                await end(*tasks)
            return await thread.run(self._write, [outcome for outcome in outcomes if outcome is not None])
        finally:
            thread.close()

    async def _hops(self, thread: Threads) -> list[tuple[int, Hop]]:
        """:raises _NotHere: this triggerer has another key than the worker, or cannot import a trigger."""
        try:
            for _, sealed, *_ in self.waiting:
                await call_in_thread(require_seal, sealed, time.time())
            return await import_in_thread(thread, self._find)
        except Exception as error:
            raise _NotHere(f"{type(error).__name__}: {error}") from error

    def _find(self) -> list[tuple[int, Hop]]:
        found = []
        for index, sealed, until, _ in self.waiting:
            hop = Hop.from_cursor(unseal(sealed)["hop"]).until(until)
            hop.find_trigger()
            found.append((index, hop))
        return found

    async def _outcome(self, index: int, hop: Hop) -> Outcome | None:
        """``None``: the item is to be asked again, on the worker, which tells of its error."""
        outcome = await hop_outcome(hop, self)
        at = time.time()
        return None if outcome is None else (index, await call_in_thread(_seal, outcome), at)

    async def _until_worth_a_worker(self, tasks: set[asyncio.Task[Outcome | None]]) -> None:
        ends = [moment for *_, moment in self.waiting if moment is not None]
        latest, began, first = min([self.until, *ends]), time.time(), None
        while tasks:
            now = time.time()
            if first is not None:
                latest = min(latest, first + max(GATHER, GATHER_SHARE * (first - began)))
            if now >= latest:
                return
            done, tasks = await asyncio.wait(tasks, timeout=latest - now, return_when=asyncio.FIRST_COMPLETED)
            if done and first is None:
                first = time.time()

    def _write(self, outcomes: list[Outcome]) -> int:
        """Through the XCom backend; it blocks."""
        chunks: list[list[Outcome]] = []
        size = BYTES_AT_ONCE
        for outcome in outcomes:
            size += len(json.dumps(outcome))
            if size > BYTES_AT_ONCE:
                chunks.append([])
                size = len(json.dumps(outcome))
            chunks[-1].append(outcome)
        for number, chunk in enumerate(chunks):
            XCom.set(key=outcomes_key(self.name, number), value=[list(one) for one in chunk], **self.where)
        return len(chunks)


def outcomes_key(name: str, number: int) -> str:
    return f"deferred_expand.waited.{name}.{number}"


def _seal(outcome: dict[str, Any]) -> str:
    try:
        return seal(outcome)
    except Exception as error:
        return seal({"failed": [TRIGGER_FAILURE, [f"its event cannot be kept: {error}"]]})
