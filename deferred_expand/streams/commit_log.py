"""
The commit log, and the plan of a commit.

Writing the log is the commit: what it counts is in the stream, and nothing else is. It stays small
however long the stream gets, because where older items lie is kept in index pages of
:data:`INDEX_SPAN` items each.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass, replace
from typing import Any

from deferred_expand.streams.events import BatchEvent, Checkpoint, Failure, check_version
from deferred_expand.streams.page import JSON, START, Position

LOG_VERSION = 1
INDEX_SPAN = 512

IndexPage = tuple[tuple[int, str], ...]
"""The batches that hold a span of items: number of their first item, and name."""


@dataclass(frozen=True)
class CommitLog:
    """
    What is committed of one stream.

    :param writer: the walk that staged the last batch.
    :param tail: index of the span that is not full yet.
    :param ended: the source has given its last item.
    :param failure: why the source could not go on, and in which try of the stream head.
    """

    stream: str
    batches: int = 0
    items: int = 0
    position: Position = START
    writer: str | None = None
    tail: IndexPage = ()
    ended: bool = False
    failure: Failure | None = None
    failed_try: int | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.stream, self.batches, self.items, self.position, self.writer)

    @property
    def tail_span(self) -> int:
        return self.items // INDEX_SPAN

    def describe(self) -> str:
        """For people: a label, a log line."""
        state = "failed" if self.failure is not None else "ended" if self.ended else "open"
        return (
            f"stream {state}: {self.items} item{'s' * (self.items != 1)} "
            f"in {self.batches} batch{'es' * (self.batches != 1)}"
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "version": LOG_VERSION,
            **asdict(self),
            "position": self.position.to_json(),
            "tail": [list(entry) for entry in self.tail],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CommitLog:
        check_version(data, "commit log", LOG_VERSION)
        fields = {key: value for key, value in data.items() if key != "version"}
        fields["position"] = Position.from_json(data["position"])
        fields["tail"] = index_page(data["tail"])
        fields["failure"] = Failure(**data["failure"]) if data["failure"] else None
        return cls(**fields)


@dataclass(frozen=True)
class Commit:
    """
    What to write, in this order: the index pages that became full, then the log.

    :param items_before: how many are committed already.
    """

    full_pages: dict[int, IndexPage]
    log: CommitLog
    items_before: int


def index_page(data: list[list[Any]]) -> IndexPage:
    return tuple((first, name) for first, name in data)


def batch_name(number: int, writer: str) -> str:
    """A batch's name within its stream; two walks never use the same."""
    return f"{number}.{writer}"


def span_of(item: int) -> int:
    """The index page that item (counted from 1) is in."""
    return (item - 1) // INDEX_SPAN


def locate(page: IndexPage, item: int) -> tuple[str, int]:
    """The batch's name and the place in it (from 0) of an item that the page covers."""
    entry = bisect_right(page, item, key=lambda entry: entry[0]) - 1
    first, name = page[entry]
    return name, item - first


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
    full_pages: dict[int, IndexPage] = {}
    items, span, entries = log.items, log.tail_span, list(log.tail)
    for number, count in enumerate(counts, log.batches):
        entry = (items + 1, batch_name(number, event.writer))
        entries.append(entry)
        items += count
        while items >= (span + 1) * INDEX_SPAN:
            full_pages[span] = tuple(entries)
            span += 1
            entries = [entry] if items > span * INDEX_SPAN else []
    committed = replace(
        log,
        batches=event.first + len(event.counts),
        items=items,
        position=event.position,
        writer=event.writer if counts else log.writer,
        tail=tuple(entries),
        ended=event.ended,
        failure=event.failure,
        failed_try=try_number if event.failure else None,
    )
    return Commit(full_pages, committed, log.items)
