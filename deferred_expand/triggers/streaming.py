"""``StreamingExpansionTrigger``: a source walked in Airflow's triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import BaseTrigger, TriggerEvent
from deferred_expand.sources.importing import import_source
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.session import StreamSession, call_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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
        function = await call_in_thread(import_source, self.source)  # may take a while, and run any code
        session = StreamSession(expansion, function, self.source_kwargs)
        if self.task_instance is None:
            event: BatchEvent | TriggerEvent = await session.walk_inline()
        else:
            event = await session.walk_on(self.task_instance.try_number)
        if isinstance(event, BatchEvent):
            self.log.info("For a worker to commit: %s", event.describe())
            event = TriggerEvent(event.to_json())
        yield event
