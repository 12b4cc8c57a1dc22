"""The steps that shape a stream, and where each of them can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.importing import (
    DagPlace,
    FunctionName,
    ImportPath,
    find_function,
    import_source,
    name_of,
    source_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Kind = Literal["filter", "map", "flat_map"]


@dataclass(frozen=True)
class Step:
    """
    :param function: what is called with each item.
    :param path: its ``"package.module:name"``; ``None``: only the DAG file has it.
    """

    kind: Kind
    function: Callable[[Any], Any]
    path: str | None = None

    @classmethod
    def of(cls, kind: Kind, function: Callable[[Any], Any] | str) -> Step:
        """:raises SourceNotImportable: a name under which there is nothing."""
        found = import_source(function) if isinstance(function, str) else function
        try:
            return cls(kind, found, source_path(function))
        except SourceNotImportable:
            return cls(kind, found)

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.function)

    def named(self, dag_id: str, task_id: str, number: int) -> NamedStep:
        """:param task_id: of the unmapped task whose stream it shapes, as the step with this number."""
        if self.path:
            return NamedStep(self.kind, ImportPath(self.path))
        return NamedStep(self.kind, DagPlace(dag_id, task_id, number, self.name))


Steps = tuple[Step, ...]


class NamedStep(NamedTuple):
    """A step on its way to another process."""

    kind: Kind
    function: FunctionName


def name_steps(steps: Steps, dag_id: str, task_id: str) -> tuple[NamedStep, ...]:
    """:param task_id: of the unmapped task whose stream they shape."""
    return tuple(step.named(dag_id, task_id, number) for number, step in enumerate(steps))


def find_steps(steps: Iterable[NamedStep], dag: Any = None) -> Steps:
    """:raises SourceNotImportable: one is not to be found here; see :func:`find_function`."""
    return tuple(Step(kind, find_function(name, dag)) for kind, name in steps)


def split(steps: Steps) -> tuple[Steps, Steps]:
    """The steps that a triggerer can run, and the rest, from the first one that it cannot."""
    for number, step in enumerate(steps):
        if step.path is None:
            return steps[:number], steps[number:]
    return steps, ()
