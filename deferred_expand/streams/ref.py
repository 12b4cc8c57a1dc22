"""Which stream of which run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StreamRef:
    """
    :param task_id: of the unmapped task, under which everything is kept.
    :param mapped_task_id: of the mapped task, whose instance 0 is the stream head; ``None``: the
        unmapped task walks the stream itself, for tasks that read it. Where a task group is expanded over
        the stream, of the one among its tasks whose results count.
    :param head_task_id: of the stream head beside a task group, whose instances count from 0.
    """

    dag_id: str
    run_id: str
    task_id: str
    mapped_task_id: str | None
    head_task_id: str | None = None

    @property
    def walker(self) -> tuple[str, int]:
        """Task id and map index of the instance that is deferred while the stream is walked."""
        if self.head_task_id is not None:
            return self.head_task_id, -1
        return (self.task_id, -1) if self.mapped_task_id is None else (self.mapped_task_id, 0)

    @property
    def instances_of(self) -> str:
        """Id of the task that the items are instances of, or would be."""
        return self.mapped_task_id or self.task_id

    @property
    def heads(self) -> int:
        """Instances before the first item's."""
        return 1 if self.head_task_id is None else 0

    def index_of(self, number: int) -> int:
        """The map index of the item with a number, which counts from 1."""
        return number - 1 + self.heads

    def __str__(self) -> str:
        return f"the stream of task {self.task_id!r} in DAG {self.dag_id!r}, run {self.run_id!r},"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
