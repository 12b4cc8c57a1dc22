"""
The commit log, and the plan of a commit.

Writing the log is the commit: what it counts is in the stream, and nothing else is. It stays small
however long the stream gets and however small its batches are, because where older items lie is kept
in an index.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from deferred_expand.streams.commit_index import IndexPage, batch_name, enter, page_from_json, page_to_json
from deferred_expand.streams.events import BatchEvent, Checkpoint, Failure, check_version
from deferred_expand.streams.page import JSON, START, Position
from deferred_expand.streams.units import BATCH, Unit

if TYPE_CHECKING:
    from deferred_expand.streams.units import UnitKind

LOG_VERSION = 5
LEFT_KEPT = 16  # walks that the stream has gone on without; those of a stream with more are not known

LeftWalk = tuple[int, str]
"""Number of the first of a walk's batches that can never be committed, and the walk's name."""


@dataclass(frozen=True)
class CommitLog:
    """
    What is committed of one stream.

    :param writer: the walk that staged the last batch.
    :param index: the entries that are in no page yet: of batches, of pages of these, and so on.
    :param left: walks that the stream has gone on without.
    :param ended: the source has given its last item.
    :param failure: why the source could not go on, and in which try of the stream head.
    :param failed_before: the last try of the stream head, and how many items had failed when it began;
        only kept where the first that fails ends the stream.
    :param waited: the last try of the stream head, and the seconds that it had waited for the source at the
        last commit; only kept where that is limited.
    :param at: when the last batch was staged, or the stream opened, in seconds since the epoch.
    :param unit: what ``items`` counts, and instances are made for: items, batches or windows. Of a window
        only the batch that closes it counts.
    :param opened: when the stream was, in seconds since the epoch.
    :param grown: for how many items the task group over the stream has instances, or Airflow makes them by
        the length that the unmapped task returns; ``None``: neither is so yet.
    """

    stream: str
    batches: int = 0
    items: int = 0
    position: Position = START
    writer: str | None = None
    index: tuple[IndexPage, ...] = ()
    left: tuple[LeftWalk, ...] = ()
    ended: bool = False
    failure: Failure | None = None
    failed_try: int | None = None
    failed_before: tuple[int, int] | None = None
    waited: tuple[int, float] | None = None
    at: int | None = None
    unit: UnitKind = "item"
    opened: int | None = None
    grown: int | None = None

    @property
    def is_behind(self) -> bool:
        """Committed items have no instances in the task group yet."""
        return (self.grown or 0) < self.items

    def ends_at(self, max_duration: float | None) -> float | None:
        """When the time of the stream is over, in seconds since the epoch."""
        return None if max_duration is None or self.opened is None else self.opened + max_duration

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.stream, self.batches, self.items, self.position, self.writer)

    def waited_in(self, try_number: int) -> float:
        """Seconds that this try of the stream head has waited for the source, up to the last commit."""
        last_try, seconds = self.waited or (None, 0.0)
        return seconds if last_try == try_number else 0.0

    def describe(self) -> str:
        """For people: a label, a log line."""
        state = "failed" if self.failure is not None else "ended" if self.ended else "open"
        batches = BATCH.counted(self.batches)
        if self.unit == "batch":
            return f"stream {state}: {batches}"
        return f"stream {state}: {Unit(self.unit).counted(self.items)} in {batches}"

    @property
    def label(self) -> str:
        """The same for the stream head, which is labelled when something is committed, and not again."""
        if self.at is None or self.ended or self.failure is not None:
            return self.describe()
        since = datetime.fromtimestamp(self.at, tz=timezone.utc)
        return f"{self.describe()}, nothing since {since:%Y-%m-%d %H:%M} UTC"

    def to_json(self) -> dict[str, JSON]:
        return {
            "version": LOG_VERSION,
            **asdict(self),
            "position": self.position.to_json(),
            "index": [page_to_json(page) for page in self.index],
            "left": page_to_json(self.left),
            "failed_before": list(self.failed_before) if self.failed_before else None,
            "waited": list(self.waited) if self.waited else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CommitLog:
        check_version(data, "commit log", LOG_VERSION)
        fields = {key: value for key, value in data.items() if key != "version"}
        fields["position"] = Position.from_json(data["position"])
        fields["index"] = tuple(page_from_json(page) for page in data["index"])
        fields["left"] = page_from_json(data["left"])
        fields["failure"] = Failure(**data["failure"]) if data["failure"] else None
        for name in ("failed_before", "waited"):
            fields[name] = tuple(data.get(name) or ()) or None
        return cls(**fields)


@dataclass(frozen=True)
class Commit:
    """
    What to write, in this order: the index pages that became full, by name, and then the log.

    :param items_before: how many are committed already.
    """

    pages: dict[str, IndexPage]
    log: CommitLog
    items_before: int


def plan_commit(log: CommitLog, event: BatchEvent, try_number: int) -> Commit | None:
    """
    Decide what an event commits.

    Batches are committed only as the successors of the last committed one, and nothing is once the
    source has ended, so of two walks of one stream only one's batches become visible. An event may
    begin with batches that are committed already, if its own walk staged them.

    :param try_number: of the stream head, noted with a failure.
    :return: ``None`` when there is nothing to commit: the stream has gone on without the event, or
        has all of it.
    """
    done = log.batches - event.first
    if event.stream != log.stream or log.ended or not 0 <= done <= len(event.counts):
        return None
    if done and event.writer != log.writer:
        return None
    counts = event.counts[done:]
    if not counts and not event.ended and event.failure is None:
        return None
    pages: dict[str, IndexPage] = {}
    items, index = log.items, [list(page) for page in log.index]
    for number, count in enumerate(counts, log.batches):
        enter(index, pages, number, (items + 1, batch_name(number, event.writer)))
        items += count
    committed = replace(
        log,
        batches=event.first + len(event.counts),
        items=items,
        position=event.position,
        writer=event.writer if counts else log.writer,
        index=tuple(tuple(page) for page in index),
        left=_leave(log, log.writer, log.batches) if counts and log.writer != event.writer else log.left,
        ended=event.ended,
        failure=event.failure,
        failed_try=try_number if event.failure else None,
        waited=(try_number, round(event.waited, 3)) if event.waited else log.waited,
        at=event.at if counts else log.at,
    )
    return Commit(pages, committed, log.items)


def _leave(log: CommitLog, writer: str | None, first: int) -> tuple[LeftWalk, ...]:
    if writer is None or len(log.left) >= LEFT_KEPT or any(writer == name for _, name in log.left):
        return log.left
    return (*log.left, (first, writer))


def note_refused(log: CommitLog, event: BatchEvent) -> CommitLog | None:
    """
    The log with the walk of an event that commits nothing, if the stream has gone on without that.

    :return: ``None``: it is the log's own walk, is noted already, or has staged nothing.
    """
    if event.stream != log.stream or event.writer == log.writer or not event.counts:
        return None
    # It has committed nothing, or would have been noted when the next walk did.
    left = _leave(log, event.writer, event.first)
    return None if left == log.left else replace(log, left=left)


def first_lost(log: CommitLog | None, stream: str, writer: str, first: int) -> int | None:
    """
    Which batches of a walk that is over nobody will ever commit.

    :param first: the number of the first batch that it staged.
    :return: the number from which on they are lost; ``None``: an event may still commit them, or it
        is not known.
    """
    if log is None or log.stream != stream:
        return first
    if writer == log.writer:
        return log.batches if log.ended else None
    for number, name in log.left:
        if name == writer:
            return number
    overtaken = log.ended or log.batches > first
    return first if overtaken and len(log.left) < LEFT_KEPT else None
