"""What a stream's trigger needs to know besides its source."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from deferred_expand.committing.store import StreamRef
from deferred_expand.streams.events import VERSION, check_version

Materialize = Literal["auto", "triggerer", "callback"]
MATERIALIZE: tuple[Materialize, ...] = get_args(Materialize)


@dataclass(frozen=True)
class Expansion:
    """
    Crosses processes as JSON.

    :param stream: which opening of the stream; where it goes on stands in its commit log.
    :param for_head: the mapped task's stream head waits for the batches; otherwise the unmapped
        task itself does, as it must when it runs again.
    :param retry: JSON of a :class:`~deferred_expand.RetryPolicy`.
    :param steps: JSON of the steps that shape the items.
    :param max_pending: unfinished instances of the mapped task at which the walk pauses.
    :param rate_limit: items per second.
    :param max_items: at which the stream ends.
    """

    ref: StreamRef
    stream: str
    for_head: bool
    materialize: Materialize
    batch_size: int
    batch_interval: float
    source_retries: int
    retry: dict[str, Any] | None
    steps: list[list[str]] = field(default_factory=list)
    max_pending: int | None = None
    rate_limit: float | None = None
    max_items: int | None = None

    @property
    def for_expander(self) -> bool:
        """Whether an expander may commit: who waits has nothing else to do."""
        return self.for_head or self.ref.mapped_task_id is None

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Expansion:
        check_version(data, "trigger's arguments")
        fields = {key: value for key, value in data.items() if key != "version"}
        return cls(**{**fields, "ref": StreamRef(**data["ref"])})
