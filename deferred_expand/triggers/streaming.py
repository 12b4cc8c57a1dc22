"""``StreamingExpansionTrigger``: a source walked in Airflow's triggerer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import ParamSpec

from deferred_expand import settings
from deferred_expand.airflow_internals import (
    BaseTrigger,
    TriggerEvent,
    ensure_sync_calls_work_here,
    task_instance_state,
)
from deferred_expand.committing.stager import XComStager
from deferred_expand.committing.store import StreamRef, StreamStore
from deferred_expand.sources.function import takes_cursor, walk_function
from deferred_expand.sources.importing import import_source
from deferred_expand.streams.events import BatchEvent, Checkpoint
from deferred_expand.walking.registry import WalkRegistry
from deferred_expand.walking.threads import OwnThread
from deferred_expand.walking.walk import Walk, WalkPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from deferred_expand.streams.page import JSON

P = ParamSpec("P")
R = TypeVar("R")

_walks = WalkRegistry()

# States of an instance whose walk is worth keeping: it waits, or is about to.
_WANTED_STATES = frozenset({"deferred", "scheduled", "queued", "running", "up_for_reschedule"})


@dataclass(frozen=True)
class Expansion:
    """
    What a stream's trigger needs to know besides its source; crosses processes as JSON.

    :param for_head: the mapped task's stream head waits for the batches; otherwise the unmapped
        task itself does, as it must when it runs again.
    """

    ref: StreamRef
    checkpoint: Checkpoint
    for_head: bool
    batch_size: int
    batch_interval: float
    source_retries: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "checkpoint": self.checkpoint.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Expansion:
        checkpoint = Checkpoint.from_json(data["checkpoint"])
        return cls(**{**data, "ref": StreamRef(**data["ref"]), "checkpoint": checkpoint})


class StreamingExpansionTrigger(BaseTrigger):
    """
    Walks a source and yields one event when batches of its items are staged.

    The event holds references and counts only; it goes through the metadata database. Airflow ends
    a trigger after its first event, so the walk itself lives on in the triggerer, and the stream's
    next trigger joins it.

    :param source: ``"package.module:name"`` of the source.
    :param source_kwargs: its arguments, rendered.
    :param expansion: JSON of an :class:`Expansion`.
    """

    def __init__(self, *, source: str, source_kwargs: dict[str, Any], expansion: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source = source
        self.source_kwargs = source_kwargs
        self.expansion = expansion

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """:return: the class path, and the arguments, which Airflow encrypts (airflow/models/trigger.py)."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "source": self.source,
                "source_kwargs": self.source_kwargs,
                "expansion": self.expansion,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        expansion = Expansion.from_json(self.expansion)
        function = await _in_thread(import_source, self.source)  # may take a while, and run any code
        if self.task_instance is None:
            event = await self._walk_inline(expansion, function)
        else:
            event = await self._walk_on(expansion, function, self.task_instance.try_number)
        self.log.info(
            "%d batch(es) with %d item(s) staged for the stream of task %r%s",
            len(event.counts),
            sum(event.counts),
            expansion.ref.task_id,
            ", and the source has ended" if event.ended else "",
        )
        yield TriggerEvent(event.to_json())

    async def _walk_inline(self, expansion: Expansion, function: Callable[..., Any]) -> BatchEvent:
        """In ``dag.test()`` only a trigger's first event counts, and nothing runs beside it."""
        walk, close = self._open_walk(expansion, function, walk_ahead=float("inf"))
        walk.start()
        try:
            return await walk.all_batches()
        finally:
            await close()

    async def _walk_on(
        self, expansion: Expansion, function: Callable[..., Any], try_number: int
    ) -> BatchEvent:
        loop = asyncio.get_running_loop()
        send_at = loop.time() + settings.requeue_delay()
        async with _walks.hold(
            (expansion.ref, expansion.for_head),
            try_number,
            expansion.checkpoint,
            lambda: self._open_walk(expansion, function, walk_ahead=settings.walk_ahead()),
            lambda: _is_wanted(expansion),
            settings.idle_timeout(),
        ) as walk:
            await walk.batches()
            await asyncio.sleep(max(0.0, send_at - loop.time()))
            return await walk.batches()

    def _open_walk(
        self, expansion: Expansion, function: Callable[..., Any], walk_ahead: float
    ) -> tuple[Walk, Callable[[], Awaitable[None]]]:
        source_thread, staging_thread = OwnThread("source"), OwnThread("staging")

        async def open_source(cursor: JSON) -> AsyncGenerator[Any, None]:
            await ensure_sync_calls_work_here()
            walked = walk_function(function, self.source_kwargs, cursor, source_thread)
            async with aclosing(walked) as items:
                async for item in items:
                    yield item

        policy = WalkPolicy(
            batch_size=expansion.batch_size,
            batch_interval=expansion.batch_interval,
            source_retries=expansion.source_retries,
            walk_ahead=walk_ahead,
            resumable=takes_cursor(function),
        )
        stager = XComStager(StreamStore(expansion.ref), staging_thread, settings.max_batch_bytes())
        walk = Walk(open_source, stager, policy, expansion.checkpoint)

        async def close() -> None:
            await walk.close()
            source_thread.close()
            staging_thread.close()

        return walk, close


async def _is_wanted(expansion: Expansion) -> bool:
    ref = expansion.ref
    waits = (ref.mapped_task_id, 0) if expansion.for_head else (ref.task_id, -1)
    state = await _in_thread(task_instance_state, ref.dag_id, ref.run_id, *waits)
    return state in _WANTED_STATES


async def _in_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    thread = OwnThread("deferred_expand")
    try:
        return await thread.run(call, *args, **kwargs)
    finally:
        thread.close()
