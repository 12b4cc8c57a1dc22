"""What goes from a worker to the trigger and back: small, typed, versioned."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from deferred_expand.streams.page import JSON, START, Position

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = Literal["retry", "fail", "skip"]

EVENT_VERSION = 2
_MAX_TRACEBACK = 20_000  # characters; an event lands in the metadata database


def check_version(data: dict[str, Any], what: str, version: int) -> None:
    """:raises ValueError: if another release wrote ``data`` in a form this one cannot read."""
    if data.get("version") != version:
        raise ValueError(
            f"this release reads version {version} of a {what}, not {data.get('version')!r}: "
            "finish the run with the release it was started with, or clear it"
        )


@dataclass(frozen=True)
class Failure:
    """
    Why a source could not go on.

    :param outcome: what becomes of the stream head: ``"retry"``, an ordinary failure; ``"fail"``,
        one that is not tried again; ``"skip"``.
    """

    message: str
    traceback: str
    outcome: Outcome = "retry"

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An error of this package may say the outcome in an attribute of that name."""
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        return cls(
            message=_storable(str(error)),
            traceback=_storable("".join(lines)[-_MAX_TRACEBACK:]),
            outcome=getattr(error, "outcome", "retry"),
        )


def _storable(text: str) -> str:
    """Without what Postgres cannot keep in a column of JSON: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Checkpoint:
    """
    The last commit in short: all a walk needs to go on, on any machine.

    :param stream: which opening of the stream this belongs to; a new one each time the unmapped
        task starts over.
    :param batches: how many are committed.
    :param items: how many are committed.
    :param writer: the walk that staged the last batch.
    """

    stream: str
    batches: int = 0
    items: int = 0
    position: Position = START
    writer: str | None = None


@dataclass(frozen=True)
class BatchEvent:
    """
    Staged batches that a trigger hands over to be committed: references and counts, no items.

    :param writer: which walk staged them; part of their keys.
    :param first: the number of the first one, counted from 0 over the whole stream.
    :param counts: the items of each.
    :param position: in the source, right after the last one.
    :param waited: seconds that this try of the stream head had waited for the source when the last one was
        staged; 0 where that is not limited.
    :param at: when the last one was staged, in seconds since the epoch.
    """

    stream: str
    writer: str
    first: int
    counts: tuple[int, ...]
    position: Position
    ended: bool = False
    failure: Failure | None = None
    waited: float = 0.0
    at: int | None = None

    @classmethod
    def empty(cls, stream: str) -> BatchEvent:
        """Nothing to commit: whoever waits shall look at the commit log."""
        return cls(stream=stream, writer="", first=0, counts=(), position=START)

    def map_failure(self, change: Callable[[str], Any]) -> BatchEvent:
        """The same with a failure's texts changed."""
        if self.failure is None:
            return self
        failure = replace(
            self.failure,
            message=str(change(self.failure.message)),
            traceback=str(change(self.failure.traceback)),
        )
        return replace(self, failure=failure)

    def describe(self) -> str:
        """For people: a log line."""
        over = "source ended" if self.ended else "source failed" if self.failure else "more to come"
        return f"{len(self.counts)} batch(es) with {sum(self.counts)} item(s), {over}"

    def to_json(self) -> dict[str, JSON]:
        return {
            "version": EVENT_VERSION,
            **asdict(self),
            "counts": list(self.counts),
            "position": self.position.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BatchEvent:
        check_version(data, "batch event", EVENT_VERSION)
        fields = {key: value for key, value in data.items() if key != "version"}
        fields["counts"] = tuple(data["counts"])
        fields["position"] = Position.from_json(data["position"])
        fields["failure"] = Failure(**data["failure"]) if data["failure"] else None
        return cls(**fields)


WaitsFor = Literal["items", "results", "commits", "max_pending", "rate_limit", "retry", "pause"]


@dataclass(frozen=True)
class WalkState:
    """
    How a walk is doing, for people.

    :param given: items that its source has given so far.
    :param waits_for: ``"items"`` of the source; ``"results"`` of items, as its source does; ``"commits"``, as
        it is far ahead of these; a limit; ``"retry"``: until the source is opened again; ``"pause"``: until a
        person has it go on.
    :param since: when that was first seen, in seconds since the epoch.
    :param reopened: how often the source was opened again after an error.
    :param error: the last of these.
    """

    given: int
    waits_for: WaitsFor | None
    since: int
    reopened: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Announcement:
    """
    A trigger's word to the expander beside it: these batches are staged, commit them.

    :param expander: whom it is for; another triggerer's expander leaves it alone.
    :param task_id: of the unmapped task, under which the stream's records are kept.
    :param at: when it was made, in seconds since the epoch.
    :param group_id: of the task group that is expanded over the stream.
    :param walk: how that is doing.
    """

    expander: str
    task_id: str
    at: float
    event: BatchEvent
    group_id: str | None = None
    walk: WalkState | None = None

    def to_json(self) -> dict[str, JSON]:
        walk = None if self.walk is None else asdict(self.walk)
        return {**vars(self), "event": self.event.to_json(), "walk": walk}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Announcement:
        walk = WalkState(**data["walk"]) if data.get("walk") else None
        return cls(**{**data, "event": BatchEvent.from_json(data["event"]), "walk": walk})
