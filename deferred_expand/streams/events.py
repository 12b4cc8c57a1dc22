"""What goes from a worker to the trigger and back: small, typed, versioned."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from typing import Any

from deferred_expand.streams.page import JSON, START, Position

VERSION = 1
_MAX_TRACEBACK = 20_000  # characters; an event lands in the metadata database


def check_version(data: dict[str, Any], what: str) -> None:
    """:raises ValueError: if another release wrote ``data`` in a form this one cannot read."""
    if data.get("version") != VERSION:
        raise ValueError(
            f"this release reads version {VERSION} of a {what}, not {data.get('version')!r}: "
            "finish the run with the release it was started with, or clear it"
        )


@dataclass(frozen=True)
class Failure:
    """Why a source could not go on."""

    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        return cls(message=str(error), traceback="".join(lines)[-_MAX_TRACEBACK:])


@dataclass(frozen=True)
class Checkpoint:
    """
    The last commit in short: all a walk needs to go on, on any machine.

    :param stream: which opening of the stream this belongs to; a new one each time the unmapped
        task starts over.
    :param batches: how many are committed.
    :param items: how many are committed.
    """

    stream: str
    batches: int = 0
    items: int = 0
    position: Position = START

    def to_json(self) -> dict[str, JSON]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Checkpoint:
        check_version(data, "checkpoint")
        return cls(
            stream=data["stream"],
            batches=data["batches"],
            items=data["items"],
            position=Position.from_json(data["position"]),
        )


@dataclass(frozen=True)
class BatchEvent:
    """
    Staged batches that a trigger hands over to be committed: references and counts, no items.

    :param writer: which walk staged them; part of their keys.
    :param first: the number of the first one, counted from 0 over the whole stream.
    :param counts: the items of each.
    :param position: in the source, right after the last one.
    """

    stream: str
    writer: str
    first: int
    counts: tuple[int, ...]
    position: Position
    ended: bool = False
    failure: Failure | None = None

    def to_json(self) -> dict[str, JSON]:
        return {"version": VERSION, **asdict(self), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BatchEvent:
        check_version(data, "batch event")
        return cls(
            stream=data["stream"],
            writer=data["writer"],
            first=data["first"],
            counts=tuple(data["counts"]),
            position=Position.from_json(data["position"]),
            ended=data["ended"],
            failure=Failure(**data["failure"]) if data["failure"] else None,
        )
