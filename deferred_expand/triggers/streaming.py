"""``StreamingExpansionTrigger``: a source walked in Airflow's triggerer."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from deferred_expand import settings
from deferred_expand.airflow_internals.contexts import restore
from deferred_expand.airflow_internals.sdk import BaseTrigger, TriggerEvent, redact
from deferred_expand.shaping.steps import find_steps
from deferred_expand.sources.arguments import mask, pack, unpack
from deferred_expand.sources.importing import find_function
from deferred_expand.sources.opening import is_operator, is_resumable, open_source
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.calls import call_in_thread, import_in_thread
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.sealed import SealedElsewhere, require_seal
from deferred_expand.triggers.session import StreamSession
from deferred_expand.triggers.walks import WalkOpener
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deferred_expand.streams.page import JSON


CONTEXT = "deferred_expand.context"  # among the arguments of an operator; no name of a parameter


def is_streaming_trigger(source: Any) -> bool:
    """Whether a source is a trigger that streams by itself."""
    return isinstance(source, type) and issubclass(source, StreamingExpansionTrigger)


def _open(source_kwargs: dict[str, Any] | str) -> dict[str, Any]:
    packed = unseal(source_kwargs) if isinstance(source_kwargs, str) else source_kwargs
    mask(packed)
    return cast("dict[str, Any]", packed)


class StreamingExpansionTrigger(BaseTrigger):
    """
    Walks a source, and hands batches of its items over to be committed.

    As it is, it walks the ``source`` of a :class:`~deferred_expand.DeferredExpandOperator`. Authors
    of provider operators subclass it and override one method::

        class ListObjectsTrigger(StreamingExpansionTrigger):
            def __init__(self, *, bucket, prefix="", expansion=None):
                super().__init__(expansion=expansion)
                self.bucket = bucket
                self.prefix = prefix

            async def stream(self, cursor):
                while True:
                    keys, cursor = await self.list(after=cursor)
                    yield Page(keys, cursor=cursor)
                    if cursor is None:
                        return

    and give the class, with its arguments, to ``DeferredExpandOperator`` as ``source`` and
    ``source_kwargs``. Each argument is kept in an attribute of the same name, from where it is
    serialized.

    :param source_kwargs: the source's arguments, rendered and packed; sealed once they were serialized.
    :param expansion: JSON of an :class:`Expansion`; whose stream this is.
    """

    def __init__(
        self,
        *,
        source_kwargs: dict[str, Any] | str | None = None,
        expansion: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source_kwargs = source_kwargs
        self.expansion = expansion
        self._source: Any = None
        self._walks: WalkOpener | None = None

    async def stream(self, cursor: JSON) -> AsyncIterator[Any]:
        """
        Give the items that follow the cursor (``None``: all), or pages of them.

        An async generator. It is closed when nobody wants the stream any more, and called again
        with the last committed cursor when it raises or the triggerer dies.
        """
        expansion = Expansion.from_json(self.expansion or {})
        try_number = self.task_instance.try_number if self.task_instance else 1
        goes_alone = self.task_instance is None  # in dag.test(), see WalkOpener
        thread = Threads("source", reads_ahead=expansion.definition.max_pending is None and not goes_alone)
        try:
            packed = await thread.run(_open, self.source_kwargs or pack({}))
            arguments = await import_in_thread(thread, unpack, packed)
            context = arguments.pop(CONTEXT, None)
            opened = open_source(
                self._source,
                arguments,
                cursor,
                thread,
                ref=expansion.ref,
                try_number=try_number,
                outer=self,
                results=partial(self._walks.results, thread) if self._walks else None,
                context=None if context is None else await import_in_thread(thread, restore, context),
            )
            async with aclosing(opened) as items:
                async for item in items:
                    yield item
        finally:
            thread.close()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """:return: the class path, and the arguments, those of the source encrypted."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        arguments = self._arguments()
        if isinstance(arguments.get("source_kwargs"), dict):
            arguments["source_kwargs"] = seal(arguments["source_kwargs"])
        return path, arguments

    def _arguments(self) -> dict[str, Any]:
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """What Airflow's triggerer calls."""
        expansion = Expansion.from_json(self.expansion or {})
        try:
            await call_in_thread(require_seal, self.source_kwargs, expansion.sealed_anew)
            event = await self._walk(expansion)
        except SealedElsewhere as asked:
            self.log.warning("What a worker has sealed goes back to one: %s", asked)
            # Not before the exit of the worker that deferred is noticed: see settings.requeue_delay.
            await asyncio.sleep(settings.requeue_delay())
            event = TriggerEvent(asked.to_json(expansion.stream))
        yield event

    async def _walk(self, expansion: Expansion) -> TriggerEvent:
        thread = Threads("imports")  # which may take a while, and run any code
        try:
            await thread.run(mask, self._arguments())
            self._source = await import_in_thread(thread, find_function, expansion.definition.source)
            steps = await import_in_thread(thread, find_steps, expansion.definition.steps)
        finally:
            thread.close()
        resumable = is_streaming_trigger(self._source) or is_resumable(self._source)
        self._walks = WalkOpener(expansion, self.stream, resumable=resumable, steps=steps)
        session = StreamSession(expansion, self._walks)
        if self.task_instance is None:
            event: BatchEvent | TriggerEvent = await session.walk_inline()
        else:
            event = await session.walk_on(self.task_instance.try_number)
        if isinstance(event, BatchEvent):
            self.log.info("For a worker to commit: %s", event.describe())
            event = TriggerEvent(event.map_failure(redact).to_json())
        return event


def trigger_for(
    expansion: Expansion, source_kwargs: dict[str, Any], context: dict[str, Any]
) -> StreamingExpansionTrigger:
    """
    What walks a stream on from its last commit.

    :param source_kwargs: the source's arguments, rendered by whoever waits.
    :param context: what of the unmapped task's is taken along, for an operator.
    """
    definition = expansion.definition
    source: Any = find_function(definition.source)
    if is_streaming_trigger(source):
        trigger: StreamingExpansionTrigger = source(**source_kwargs, expansion=expansion.to_json())
        return trigger
    if definition.parents:
        parents = [ref.to_json() for ref in definition.parent_refs(expansion.run_id)]
        source_kwargs = {**source_kwargs, "parents": parents}
    if is_operator(source):
        source_kwargs = {**source_kwargs, CONTEXT: context}
    return StreamingExpansionTrigger(source_kwargs=pack(source_kwargs), expansion=expansion.to_json())
