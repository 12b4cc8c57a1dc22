"""
What a stream is, as its DAG says: all that workers and triggerers need to know of it.

Made where the DAG is parsed, from the author's operator; taken by whatever runs the stream. It is
plain and frozen, and JSON both ways.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from deferred_expand.shaping.steps import NamedStep
from deferred_expand.sources.importing import FunctionName, name_from_json
from deferred_expand.streams.control import Control
from deferred_expand.streams.ref import StreamRef
from deferred_expand.streams.units import ITEM, Unit
from deferred_expand.walking.clock import TimeLimits
from deferred_expand.walking.retry import SourceRetry

Materialize = Literal["auto", "triggerer", "callback"]
MATERIALIZE: tuple[Materialize, ...] = get_args(Materialize)


@dataclass(frozen=True)
class ExpandedGroup:
    """
    A task group that is expanded over a stream.

    :param head_task_id: of the unmapped task beside it that walks the stream.
    :param task_ids: of all of its tasks.
    :param leaves: of those that nothing in it waits for: an item is finished when these are.
    """

    group_id: str
    head_task_id: str
    task_ids: tuple[str, ...]
    leaves: tuple[str, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ExpandedGroup:
        return cls(**{**data, **{name: tuple(data[name]) for name in ("task_ids", "leaves")}})


@dataclass(frozen=True)
class StreamDefinition:
    """
    :param task_id: of the unmapped task.
    :param source: name of the function, operator class or trigger class that is walked.
    :param hops_on_worker: the sync halves of an operator's hops run where the DAG file is.
    :param in_dag_file: the triggerer loads the DAG: only its file has the source, a step, or a function
        among the source's arguments.
    :param resumable: the source can be entered in the middle.
    :param takes_context: it gets what it has parameters for of the unmapped task's context.
    :param parents: task ids, unmapped and mapped and of the head beside a group, of the streams that this
        one is made of.
    :param mapped_task_id: of the task that is expanded over the stream, or of the one in a task group whose
        results count; ``None``: the unmapped task walks it to its end.
    :param group: the task group that is expanded over the stream.
    :param steps: that shape the items where the stream is walked.
    :param item_steps: maps that are applied where an item is read.
    :param retry: what hiccups may cost; ``None``: they count as any other error.
    :param fail_fast: the DAG's: the first item that fails ends the stream.
    :param tolerate: items that may fail before that, where the DAG does not fail fast; ``None``: all.
    :param execution_timeout: the unmapped task's, in seconds.
    :param unit: what an instance of the mapped task has, and the stream counts.

    The rest is as :class:`~deferred_expand.DeferredExpandOperator` says.
    """

    dag_id: str
    task_id: str
    source: FunctionName
    hops_on_worker: bool
    in_dag_file: bool
    resumable: bool
    takes_context: bool
    parents: tuple[tuple[str, str | None, str | None], ...]
    mapped_task_id: str | None
    steps: tuple[NamedStep, ...]
    item_steps: tuple[NamedStep, ...]
    batch_size: int
    batch_interval: float
    source_retries: int
    retry: SourceRetry | None
    materialize: Materialize
    max_pending: int | None
    rate_limit: float | None
    max_items: int | None
    fail_fast: bool
    page_timeout: float | None = None
    execution_timeout: float | None = None
    unit: Unit = ITEM
    tolerate: int | str | None = None
    max_duration: float | None = None
    continue_last_run: bool = False
    group: ExpandedGroup | None = None

    def ref(self, run_id: str) -> StreamRef:
        head = None if self.group is None else self.group.head_task_id
        return StreamRef(self.dag_id, run_id, self.task_id, self.mapped_task_id, head)

    def parent_refs(self, run_id: str) -> list[StreamRef]:
        return [StreamRef(self.dag_id, run_id, *parent) for parent in self.parents]

    @property
    def counted(self) -> tuple[str, ...]:
        """Ids of the tasks whose instances say that an item is finished."""
        if self.group is not None:
            return self.group.leaves
        return (self.mapped_task_id or self.task_id,)

    @property
    def may_skip(self) -> bool:
        """Whether some of its items may be such as their instances skip, as a ``map`` function says."""
        return bool(self.parents) or any(step.kind == "map" for step in self.steps)

    @property
    def control(self) -> Control:
        """What a person may change while the stream is walked."""
        return Control(False, self.max_pending, self.rate_limit, 0 if self.fail_fast else self.tolerate)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of what they may not, as it counts instances of items, of which there are none."""
        if self.mapped_task_id is None:
            return ("max_pending", "tolerate")
        return ("max_pending",) if self.unit.kind == "batch" else ()

    @property
    def limits(self) -> TimeLimits:
        """Of the time that the source may take."""
        name = f"source of task {self.task_id!r} in DAG {self.dag_id!r}"
        return TimeLimits(name, self.page_timeout, self.execution_timeout)

    @property
    def where(self) -> str:
        """For messages."""
        return f"DAG {self.dag_id!r}, task {self.task_id!r}"

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StreamDefinition:
        read = {
            "source": name_from_json(data["source"]),
            "parents": tuple(tuple(parent) for parent in data["parents"]),
            **{
                name: tuple(NamedStep(kind, name_from_json(function)) for kind, function in data[name])
                for name in ("steps", "item_steps")
            },
            "retry": SourceRetry(**data["retry"]) if data["retry"] else None,
            "unit": Unit(**data["unit"]),
            "group": ExpandedGroup.from_json(data["group"]) if data["group"] else None,
        }
        return cls(**{**data, **read})
