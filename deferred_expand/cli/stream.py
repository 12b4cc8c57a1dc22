"""A stream as the command line tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.comms import ENDED_STATES
from deferred_expand.streams.commit_log import CommitLog

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.overview import StreamFound


@dataclass(frozen=True)
class Stream:
    """
    :param head: the instance that waits for the stream: task and map index.
    :param finished: instances of its items.
    :param failed: of these.
    :param walked_by: who holds the stream at this moment.
    """

    dag_id: str
    run_id: str
    task_id: str
    log: CommitLog
    head: tuple[str, int]
    mapped_task_id: str | None
    head_state: str | None
    started: datetime | None
    walked_by: str
    finished: int
    failed: int

    @classmethod
    def of(cls, found: StreamFound) -> Stream:
        finished = sum(count for state, count in found.items.items() if state in ENDED_STATES)
        return cls(
            dag_id=found.dag_id,
            run_id=found.run_id,
            task_id=found.task_id,
            log=CommitLog.from_json(found.log),
            head=found.head,
            mapped_task_id=found.mapped_task_id,
            head_state=found.state,
            started=found.started,
            walked_by=_who(found),
            finished=finished,
            failed=found.items.get("failed", 0) + found.items.get("upstream_failed", 0),
        )

    @property
    def is_open(self) -> bool:
        """More may come."""
        return not self.log.ended and self.head_state not in ENDED_STATES

    @property
    def items(self) -> int:
        return self.log.items

    @property
    def state(self) -> str:
        if self.is_open:
            return "open"
        return "ended" if self.log.ended else "failed" if self.log.failure else f"stopped ({self.head_state})"

    @property
    def told(self) -> str:
        """In short, for a line."""
        return f"{self.state}, {self.failed} failed" if self.failed else self.state

    @property
    def rate(self) -> float | None:
        """Items per second, from the start of the head to the last batch."""
        if self.log.at is None or self.started is None:
            return None
        seconds = self.log.at - self.started.timestamp()
        return round(self.items / seconds, 2) if seconds > 0 else None

    @property
    def age(self) -> str | None:
        """Since the last batch, or the opening."""
        if self.log.at is None:
            return None
        seconds = max(0, int(datetime.now(tz=timezone.utc).timestamp() - self.log.at))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"

    def row(self) -> dict[str, Any]:
        """For a list."""
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "task_id": self.task_id,
            "mapped_task_id": self.mapped_task_id,
            "items": self.items,
            "batches": self.log.batches,
            "items_per_second": self.rate,
            "last_item_ago": self.age,
            "walked_by": self.walked_by,
            "finished": self.finished,
            "failed": self.failed,
        }

    def details(self) -> dict[str, Any]:
        """The same with what is over."""
        failure = self.log.failure.message if self.log.failure else None
        return {**self.row(), "state": self.state, "failure": failure}


def _who(found: StreamFound) -> str:
    if found.triggerer_id is not None:
        return f"triggerer {found.triggerer_id}"
    return "worker" if found.state == "running" else found.state or "nobody yet"
