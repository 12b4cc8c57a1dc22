"""The steps that shape a stream, and where each of them can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.importing import import_source, source_path

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["filter", "map", "flat_map"]


@dataclass(frozen=True)
class Step:
    """
    :param function: what is called with each item.
    :param path: its ``"package.module:name"``; ``None``: only the DAG file has it.
    """

    kind: Kind
    function: Callable[[Any], Any]
    path: str | None

    @classmethod
    def of(cls, kind: Kind, function: Callable[[Any], Any] | str) -> Step:
        """:raises SourceNotImportable: a name under which there is nothing."""
        if isinstance(function, str):
            return cls(kind, import_source(function), source_path(function))
        try:
            return cls(kind, function, source_path(function))
        except SourceNotImportable:
            return cls(kind, function, None)

    @property
    def name(self) -> str:
        """For people."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def to_json(self) -> list[str]:
        return [self.kind, str(self.path)]

    @classmethod
    def from_json(cls, data: list[str]) -> Step:
        """In a triggerer."""
        kind, path = data
        return cls(kind, import_source(path), path)  # type: ignore[arg-type]


Steps = tuple[Step, ...]


def split(steps: Steps) -> tuple[Steps, Steps]:
    """The steps that a triggerer can run, and the rest, from the first one that it cannot."""
    for number, step in enumerate(steps):
        if step.path is None:
            return steps[:number], steps[number:]
    return steps, ()
