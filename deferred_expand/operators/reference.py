"""``users.output``: a reference to a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import attrs

from deferred_expand.airflow_internals.grouping import is_in
from deferred_expand.airflow_internals.sdk import PlainXComArg
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import DefinitionError, SourceNotImportable
from deferred_expand.shaping.steps import Kind, Step, Steps, find_steps
from deferred_expand.streams.units import ITEM, Unit
from deferred_expand.workers.items import BatchItems, StreamItems
from deferred_expand.workers.reader import StreamReader
from deferred_expand.workers.windows import StreamWindows

if TYPE_CHECKING:
    from collections.abc import Collection

    from deferred_expand.definition import StreamDefinition

UNSET = object()
_OF_UNIT: dict[str, type[StreamItems | BatchItems]] = {"item": StreamItems, "batch": BatchItems}

Function = Callable[[Any], Any] | str
"""A function, or its ``"package.module:name"``."""


class StreamTask(Protocol):
    """The unmapped task, as far as a reference to its stream needs it."""

    source_kwargs: dict[str, Any]
    show: Collection[str]
    results_of: str | None

    @property
    def where(self) -> str:
        """For messages."""

    @property
    def definition(self) -> StreamDefinition:
        """As the DAG has it by now."""

    def combine(
        self, how: str, references: Sequence[StreamReference], options: dict[str, Any]
    ) -> StreamReference:
        """One stream of several, this one the first."""


@attrs.define
class StreamReference(PlainXComArg):
    """
    A stream, to be given to ``.expand()`` or ``.expand_kwargs()``, or to a task that reads it.

    For Airflow's serialization it is a plain reference to the unmapped task, whose mapped length
    the scheduler follows. It must have no length itself: ``expand_kwargs`` takes what has one for a
    literal (airflow/sdk/definitions/_internal/expandinput.py, ``ListOfDictsExpandInput.resolve``).

    :param steps: what becomes of each item.
    :param unit: what an instance of a task that is expanded over it has: an item, or a window of them.
    """

    steps: Steps = ()
    unit: Unit = ITEM

    @property
    def stream(self) -> StreamTask:
        return self.operator  # type: ignore[return-value]

    def filter(self, function: Function) -> StreamReference:
        """Keep the items for which the function says so; the others cost nothing."""
        return self._with("filter", function)

    def map(self, f: Function) -> StreamReference:  # type: ignore[override]
        """What the function makes of each item; ``AirflowSkipException`` skips its instance."""
        return self._with("map", f)

    def flat_map(self, function: Function) -> StreamReference:
        """All that the function gives for each item: it returns an iterable, or is an async generator."""
        return self._with("flat_map", function)

    def zip(  # type: ignore[override]
        self,
        *others: StreamReference,
        fillvalue: Any = UNSET,
        strict: bool = False,
    ) -> StreamReference:
        """
        Tuples of the items with the same number, up to the end of the shortest stream.

        :param fillvalue: goes on to the end of the longest, with this in place of what is missing.
        :param strict: fails when the streams have not the same length.
        """
        options = {} if fillvalue is UNSET else {"fillvalue": fillvalue}
        return self._combine("zip", others, strict=strict, fill=fillvalue is not UNSET, **options)

    def concat(self, *others: StreamReference) -> StreamReference:  # type: ignore[override]
        """The items of one stream after those of the other."""
        return self._combine("concat", others)

    def window(self, n: int, every: float | timedelta | None = None) -> StreamReference:
        """
        Windows of n items, for a task that is expanded over them: each instance has one.

        :param n: items of a window; the last one may have less.
        :param every: seconds, or a ``timedelta``, after its first item at which a window closes, however
            many it has.
        """
        seconds = every.total_seconds() if isinstance(every, timedelta) else every
        wrong = isinstance(n, bool) or not isinstance(n, int) or n < 1
        if wrong or (seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0)):
            raise DefinitionError(
                f"{self.stream.where}: .window({n!r}, every={every!r}): it takes a whole number of items, 1 "
                "or more, and a number of seconds above 0, or a timedelta"
            )
        self._refuse_more("window")
        return attrs.evolve(self, unit=Unit("window", n, seconds))

    def resolve(self, context: Any) -> StreamItems | BatchItems | StreamWindows | StreamReader:
        definition, ti = self.stream.definition, context["ti"]
        store = StreamStore(definition.ref(ti.run_id))
        if definition.group is not None and is_in(definition.group.group_id, ti.task):
            steps = find_steps(definition.item_steps, self.operator.get_dag())
            return StreamItems(store, steps, ti.map_index)
        if definition.group is None and ti.task_id == definition.mapped_task_id:
            if definition.unit.is_window:
                return StreamWindows(store, ti.map_index)
            steps = find_steps(definition.item_steps, self.operator.get_dag())
            return _OF_UNIT[definition.unit.kind](store, steps, ti.map_index)
        return StreamReader(store, self.steps, drops=definition.may_skip)

    def __getitem__(self, key: str) -> NoReturn:
        raise DefinitionError(
            f"{self.stream.where}: [{key!r}] of a stream is not supported: use .map(), or read the whole "
            "stream in a task"
        )

    def _refuse_more(self, what: str) -> None:
        if self.unit.is_window:
            raise DefinitionError(
                f"{self.stream.where}: .{what}() of windows: shape the items first, and cut them with "
                ".window() last"
            )

    def _with(self, kind: Kind, function: Function) -> StreamReference:
        self._refuse_more(kind)
        try:
            return attrs.evolve(self, steps=(*self.steps, Step.of(kind, function)))
        except SourceNotImportable as error:
            raise SourceNotImportable(f"{self.stream.where}: .{kind}(): {error}") from error

    def _combine(self, how: str, others: Sequence[Any], **options: Any) -> StreamReference:
        self._refuse_more(how)
        for other in others:
            if not isinstance(other, StreamReference):
                raise DefinitionError(
                    f"{self.stream.where}: .{how}() takes outputs of DeferredExpandOperators, not {other!r}"
                )
            other._refuse_more(how)
        return self.stream.combine(how, (self, *others), options)
