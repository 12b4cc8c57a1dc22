"""A stream as people are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.comms import ENDED_STATES
from deferred_expand.airflow_internals.overview import Keys
from deferred_expand.committing.store import ANNOUNCEMENT_KEY, CONTROL_KEY, LOG_KEY, STREAM_KEY
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.control import Control
from deferred_expand.streams.events import WalkState

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.overview import StreamFound

KEYS = Keys(LOG_KEY, STREAM_KEY, CONTROL_KEY, ANNOUNCEMENT_KEY)
RUNNING = ("running", "restarting")
FAILED = ("failed", "upstream_failed")
WAITS_FOR = {
    "items": "the source",
    "results": "results of items",
    "commits": "commits (walk_ahead)",
    "max_pending": "items to end (max_pending)",
    "rate_limit": "its turn (rate_limit)",
    "retry": "a retry of the source",
    "pause": "a person to resume it",
}


@dataclass(frozen=True)
class Stream:
    """
    :param found: what the database has of it.
    :param counts: instances of its items by their states.
    """

    found: StreamFound
    log: CommitLog
    counts: dict[str, int]

    @classmethod
    def of(cls, found: StreamFound) -> Stream:
        log = CommitLog.from_json(found.log)
        made = log.items if log.grown is None else log.grown
        has_instances = found.mapped_task_id is not None
        succeeded = max(0, made - sum(found.items.values())) if has_instances else 0
        return cls(found, log, {**found.items, "success": succeeded})

    @property
    def dag_id(self) -> str:
        return self.found.dag_id

    @property
    def run_id(self) -> str:
        return self.found.run_id

    @property
    def task_id(self) -> str:
        return self.found.task_id

    @property
    def head(self) -> tuple[str, int]:
        """The instance that waits for the stream: task and map index."""
        return self.found.head

    @property
    def mapped_task_id(self) -> str | None:
        return self.found.mapped_task_id

    @property
    def parents(self) -> list[str]:
        """Ids of the tasks of the streams of its run that this one is made of."""
        return list(self.record.get("follows", []))

    def related(self, of_run: list[Stream]) -> tuple[list[Stream], list[Stream]]:
        """Those that it follows, and those that follow it."""
        return (
            [one for one in of_run if one.task_id in self.parents],
            [one for one in of_run if self.task_id in one.parents],
        )

    def count(self, *states: str) -> int:
        return sum(self.counts.get(state, 0) for state in states)

    @property
    def finished(self) -> int:
        """Instances of its items."""
        return self.count(*ENDED_STATES)

    @property
    def failed(self) -> int:
        return self.count(*FAILED)

    @property
    def running(self) -> int:
        return self.count(*RUNNING)

    @property
    def is_open(self) -> bool:
        """More may come."""
        return not self.log.ended and self.found.state not in ENDED_STATES

    @property
    def items(self) -> int:
        return self.log.items

    @property
    def staged(self) -> int:
        """Items that are written, and that its trigger has announced, but are not committed."""
        event = (self.found.announced or {}).get("event") or {}
        if event.get("stream") != self.log.stream:
            return 0
        counts: list[int] = event["counts"]
        behind = event["first"] + len(counts) - self.log.batches
        return sum(counts[-behind:]) if 0 < behind <= len(counts) else 0

    @property
    def walk(self) -> WalkState | None:
        """How its walk is doing; ``None``: no expander is told, or the stream is not open."""
        told = (self.found.announced or {}).get("walk")
        return WalkState(**told) if told and self.is_open else None

    # -- what its DAG says, and people ----------------------------------------------------------------

    @property
    def record(self) -> dict[str, Any]:
        """What the unmapped task has written down (workers/described.py)."""
        return self.found.record or {}

    @property
    def by_dag(self) -> Control:
        return Control(**self.record.get("control", {}))

    def changed_by(self, written: Any) -> Control:
        """:raises ValueError: it cannot be obeyed."""
        return self.by_dag.changed_by(written, self.record.get("uncounted", []))

    @property
    def control(self) -> Control:
        """What holds; of what cannot be obeyed, nothing does."""
        try:
            return self.changed_by(self.found.control)
        except ValueError:
            return self.by_dag

    def control_of(self, name: str) -> Any:
        return getattr(self.control, name)

    @property
    def refused(self) -> str | None:
        """Why what a person has written is not obeyed."""
        try:
            self.changed_by(self.found.control)
        except ValueError as error:
            return str(error)
        return None

    @property
    def changes(self) -> dict[str, Any]:
        """What a person has written, where it can be obeyed."""
        written = self.found.control
        return dict(written) if isinstance(written, dict) and self.refused is None else {}

    @property
    def can_be_changed(self) -> bool:
        """While it is walked; where workers walk it, they go on from hop to hop as they are."""
        return self.is_open and not self.record.get("walked_on_workers", False)

    @property
    def left(self) -> int | None:
        """Items that are not finished, where it is known how many there will be."""
        if self.mapped_task_id is None:
            return None
        end = self.items if not self.is_open else self.record.get("max_items")
        return None if end is None else max(0, end - self.finished)

    # -- how it is doing ------------------------------------------------------------------------------

    @property
    def waits_for(self) -> str | None:
        return None if self.walk is None or self.walk.waits_for is None else WAITS_FOR[self.walk.waits_for]

    @property
    def state(self) -> str:
        if self.is_open:
            return "paused" if self.control.paused else "open"
        if self.log.ended:
            return "ended"
        return "failed" if self.log.failure else f"stopped ({self.found.state})"

    @property
    def told(self) -> str:
        """In short, for a line."""
        return f"{self.state}, {self.failed} failed" if self.failed else self.state

    @property
    def rate(self) -> float | None:
        """Items per second, from the start of the head to the last batch."""
        if self.log.at is None or self.found.started is None:
            return None
        seconds = self.log.at - self.found.started.timestamp()
        return round(self.items / seconds, 2) if seconds > 0 else None

    @property
    def age(self) -> int | None:
        """Seconds since the last batch, or the opening."""
        if self.log.at is None:
            return None
        return max(0, int(datetime.now(tz=timezone.utc).timestamp() - self.log.at))

    @property
    def lag(self) -> float | None:
        """Seconds for which the last batch has waited for its commit; when it was staged is a whole one."""
        if self.staged:
            since = (self.found.announced or {})["event"].get("at")
            return None if since is None else max(0.0, datetime.now(tz=timezone.utc).timestamp() - since)
        if self.log.at is None or not self.log.batches:
            return None
        return max(0.0, self.found.written.timestamp() - self.log.at)

    @property
    def walked_by(self) -> str:
        """Who holds the stream at this moment."""
        if self.found.triggerer_id is not None:
            return f"triggerer {self.found.triggerer_id}"
        return "worker" if self.found.state == "running" else self.found.state or "nobody yet"

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
            "last_item_ago": None if self.age is None else clock(self.age),
            "walked_by": self.walked_by,
            "finished": self.finished,
            "failed": self.failed,
        }

    def details(self) -> dict[str, Any]:
        """The same with what it waits for, and what is over."""
        failure = self.log.failure.message if self.log.failure else None
        return {**self.row(), "state": self.state, "waits_for": self.waits_for, "failure": failure}


def limits_by_dag(stream: Stream) -> list[tuple[str, Any]]:
    """Names of what a person may change beside pausing, with what the DAG says."""
    names = [
        name
        for name in ("max_pending", "rate_limit", "tolerate")
        if name not in stream.record.get("uncounted", [])
    ]
    return [(name, getattr(stream.by_dag, name)) for name in names]


def in_line(streams: list[Stream]) -> list[tuple[int, Stream]]:
    """What follows another one right behind it, with how deep that is."""
    line: list[tuple[int, Stream]] = []
    placed: set[tuple[str, str, str]] = set()

    def place(stream: Stream, depth: int) -> None:
        key = (stream.dag_id, stream.run_id, stream.task_id)
        if key in placed:
            return
        placed.add(key)
        line.append((depth, stream))
        for other in of_run[stream.dag_id, stream.run_id]:
            if stream.task_id in other.parents:
                place(other, depth + 1)

    of_run: dict[tuple[str, str], list[Stream]] = {}
    for stream in streams:
        of_run.setdefault((stream.dag_id, stream.run_id), []).append(stream)
    for stream in streams:
        if not any(one.task_id in stream.parents for one in of_run[stream.dag_id, stream.run_id]):
            place(stream, 0)
    return line


def clock(seconds: int) -> str:
    """As hours, minutes and seconds."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def moment(seconds: int) -> str:
    """Of seconds since the epoch."""
    return f"{datetime.fromtimestamp(seconds, tz=timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
