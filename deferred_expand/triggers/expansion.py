"""What a stream's trigger needs to know besides its source's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deferred_expand.definition import StreamDefinition
from deferred_expand.streams.events import check_version

if TYPE_CHECKING:
    from deferred_expand.streams.ref import StreamRef

ARGUMENTS_VERSION = 3


@dataclass(frozen=True)
class Expansion:
    """
    One opening of a stream, in one run. Crosses processes as JSON.

    :param stream: which opening; where it goes on stands in its commit log.
    :param for_head: the mapped task's stream head waits for the batches; otherwise the unmapped
        task itself does, as it must when it runs again.
    :param failed_before: how many items had failed when this try of the head began.
    :param sealed_anew: when a trigger had asked a worker for that, in seconds since the epoch.
    """

    definition: StreamDefinition
    run_id: str
    stream: str
    for_head: bool
    failed_before: int = 0
    sealed_anew: float | None = None

    @property
    def ref(self) -> StreamRef:
        return self.definition.ref(self.run_id)

    @property
    def for_expander(self) -> bool:
        """Whether an expander may commit: who waits has nothing else to do."""
        return self.for_head or self.ref.mapped_task_id is None

    def to_json(self) -> dict[str, Any]:
        return {"version": ARGUMENTS_VERSION, **vars(self), "definition": self.definition.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Expansion:
        check_version(data, "trigger's arguments", ARGUMENTS_VERSION)
        definition = StreamDefinition.from_json(data["definition"])
        fields = {name: value for name, value in data.items() if name != "version"}
        return cls(**{**fields, "definition": definition})
