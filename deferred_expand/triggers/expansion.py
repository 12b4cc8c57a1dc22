"""What a stream's trigger needs to know besides its source's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deferred_expand.committing.board import name_on_board
from deferred_expand.definition import StreamDefinition
from deferred_expand.sources.dag_file import DagFile
from deferred_expand.streams.events import check_version

if TYPE_CHECKING:
    from deferred_expand.streams.ref import StreamRef

ARGUMENTS_VERSION = 6


@dataclass(frozen=True)
class Expansion:
    """
    One opening of a stream, in one run. Crosses processes as JSON.

    :param stream: which opening; where it goes on stands in its commit log.
    :param for_head: the mapped task's stream head waits for the batches; otherwise the unmapped
        task itself does, as it must when it runs again.
    :param until: where a task group is expanded over the stream, for how many items it has instances when the
        unmapped task is done.
    :param failed_before: how many items had failed when this try of the head began.
    :param dag_file: where the triggerer finds the DAG, if it needs it; as the worker that deferred ran it.
    :param sealed_anew: when a trigger had asked a worker for that, in seconds since the epoch.
    """

    definition: StreamDefinition
    run_id: str
    stream: str
    for_head: bool
    failed_before: int = 0
    sealed_anew: float | None = None
    dag_file: DagFile | None = None
    until: int = 1

    @property
    def ref(self) -> StreamRef:
        return self.definition.ref(self.run_id)

    @property
    def for_expander(self) -> bool:
        """Whether an expander may commit: who waits has nothing else to do."""
        return self.for_head or self.ref.mapped_task_id is None or self.definition.group is not None

    @property
    def waiter(self) -> tuple[str, int]:
        """Task id and map index of the instance that waits on this trigger."""
        return self.ref.walker if self.for_head else (self.definition.task_id, -1)

    @property
    def board_name(self) -> str:
        """What the stream is called on the :class:`~deferred_expand.committing.board.CommitBoard`."""
        return name_on_board(self.definition.dag_id, self.run_id, self.waiter[0])

    def to_json(self) -> dict[str, Any]:
        return {
            "version": ARGUMENTS_VERSION,
            **vars(self),
            "definition": self.definition.to_json(),
            "dag_file": self.dag_file.to_json() if self.dag_file else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Expansion:
        check_version(data, "trigger's arguments", ARGUMENTS_VERSION)
        definition = StreamDefinition.from_json(data["definition"])
        fields = {name: value for name, value in data.items() if name != "version"}
        dag_file = DagFile(**data["dag_file"]) if data["dag_file"] else None
        return cls(**{**fields, "definition": definition, "dag_file": dag_file})
