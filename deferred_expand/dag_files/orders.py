"""What a DAG file process is asked to do, and how it tells of an error."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from typing import Any

from deferred_expand import exceptions
from deferred_expand.exceptions import DeferredExpandError
from deferred_expand.walking.retry import is_transient, retry_after

LONGEST_TRACEBACK = 20_000  # characters


@dataclass(frozen=True)
class WalkOrder:
    """
    To walk a stream's source after a cursor.

    :param folder: of the bundle.
    :param file: relative to it.
    :param definition: JSON of the stream's.
    :param arguments: of the source, packed, as JSON.
    :param given: what the source has given by then, as the stream counts, and items of a unit of that.
    :param reads_ahead: whether the source may be asked for what nobody has asked for yet.
    """

    folder: str
    bundle: str
    file: str
    definition: dict[str, Any]
    run_id: str
    try_number: int
    arguments: Any
    cursor: Any
    given: int
    unit_size: int
    reads_ahead: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class DagMissing(DeferredExpandError):
    """The file, or the DAG in it, is not there (yet)."""


class ElsewhereRaised(Exception):
    """What a source has raised in a DAG file process; it says of itself what that would."""

    def __init__(self, message: str, shown: str, after: float | None) -> None:
        super().__init__(message)
        self.shown = shown
        if after is not None:
            self.headers = {"Retry-After": str(after)}

    def __repr__(self) -> str:
        return self.shown


class ElsewhereBroke(ElsewhereRaised, ConnectionError):
    """The same for what may be tried again at once."""


class ElsewhereTraceback(Exception):
    """The cause of an error from another process: its traceback, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def tell_error(error: BaseException) -> dict[str, Any]:
    """An error as plain data."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return {
        "ours": type(error).__name__ if isinstance(error, DeferredExpandError) else None,
        "message": str(error),
        "shown": repr(error),
        "transient": is_transient(error),
        "retry_after": retry_after(error),
        "traceback": "".join(lines)[-LONGEST_TRACEBACK:],
    }


def error_told(told: dict[str, Any]) -> Exception:
    """What :func:`tell_error` was given, as far as it matters."""
    ours = DagMissing if told["ours"] == "DagMissing" else getattr(exceptions, told["ours"] or "", None)
    if ours is not None:
        error: Exception = ours(told["message"])
    else:
        kind = ElsewhereBroke if told["transient"] else ElsewhereRaised
        error = kind(told["message"], told["shown"], told["retry_after"])
    error.__cause__ = ElsewhereTraceback(told["traceback"])
    return error
