"""``StreamingExpansionTrigger``: a source walked in Airflow's triggerer."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from deferred_expand import settings
from deferred_expand.airflow_internals.comms import is_in_process
from deferred_expand.airflow_internals.contexts import restore
from deferred_expand.airflow_internals.sdk import BaseTrigger, TriggerEvent, redact
from deferred_expand.shaping.steps import find_steps
from deferred_expand.sources.arguments import CONTEXT, mask, pack, unpack
from deferred_expand.sources.importing import find_function, keep_dag, kept_dag
from deferred_expand.sources.opening import is_operator, open_source
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.calls import call_in_thread, import_in_thread
from deferred_expand.triggers.dag_file import walk_dag_file
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.sealed import SealedElsewhere, require_seal
from deferred_expand.triggers.session import StreamSession
from deferred_expand.triggers.walks import WalkOpener
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from deferred_expand.shaping.steps import Steps
    from deferred_expand.streams.page import JSON


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
        if self._in_dag_file(expansion) and self._walks is not None:
            opened = walk_dag_file(
                expansion, self.source_kwargs or pack({}), cursor, try_number, self._walks.walk
            )
        else:
            opened = self._open_here(expansion, cursor, try_number)
        async with aclosing(opened) as items:
            async for item in items:
                yield item

    def _in_dag_file(self, expansion: Expansion) -> bool:
        """Whether this process cannot have what it walks."""
        return expansion.definition.in_dag_file and not is_in_process()

    async def _open_here(
        self, expansion: Expansion, cursor: JSON, try_number: int
    ) -> AsyncGenerator[Any, None]:
        goes_alone = self.task_instance is None  # in dag.test(), see WalkOpener
        thread = Threads("source", reads_ahead=expansion.definition.max_pending is None and not goes_alone)
        try:
            packed = await thread.run(_open, self.source_kwargs or pack({}))
            task = _task_here(expansion)
            in_dag = None if task is None else task.source_kwargs
            arguments = await import_in_thread(thread, unpack, packed, in_dag)
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
                context=None if context is None else await import_in_thread(thread, restore, context, task),
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
        steps = () if self._in_dag_file(expansion) else await self._find(expansion)
        resumable = expansion.definition.resumable
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

    async def _find(self, expansion: Expansion) -> Steps:
        """What is walked here, and what shapes it."""
        definition, dag = expansion.definition, kept_dag(expansion.definition.dag_id)
        thread = Threads("imports")  # which may take a while, and run any code
        try:
            await thread.run(mask, self._arguments())
            self._source = await import_in_thread(thread, find_function, definition.source, dag)
            return await import_in_thread(thread, find_steps, definition.steps, dag)
        finally:
            thread.close()


def _task_here(expansion: Expansion) -> Any:
    """The unmapped task, in ``dag.test()``."""
    definition = expansion.definition
    dag = kept_dag(definition.dag_id) if definition.in_dag_file else None
    return None if dag is None else dag.get_task(definition.task_id)


def trigger_for(
    expansion: Expansion, source_kwargs: dict[str, Any], context: dict[str, Any], dag: Any
) -> StreamingExpansionTrigger:
    """
    What walks a stream on from its last commit.

    :param source_kwargs: the source's arguments, rendered by whoever waits.
    :param context: what of the unmapped task's is taken along, for what asks for it.
    :param dag: that this worker has loaded.
    """
    definition = expansion.definition
    if definition.in_dag_file and is_in_process():
        keep_dag(dag)
    source: Any = find_function(definition.source, dag)
    if is_streaming_trigger(source) and not definition.in_dag_file:
        trigger: StreamingExpansionTrigger = source(**source_kwargs, expansion=expansion.to_json())
        return trigger
    if definition.parents:
        parents = [ref.to_json() for ref in definition.parent_refs(expansion.run_id)]
        source_kwargs = {**source_kwargs, "parents": parents}
    if is_operator(source) or definition.takes_context:
        source_kwargs = {**source_kwargs, CONTEXT: context}
    packed = pack(source_kwargs, with_dag=definition.in_dag_file)
    return StreamingExpansionTrigger(source_kwargs=packed, expansion=expansion.to_json())
