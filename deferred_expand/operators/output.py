"""``users.output``: a reference to a stream, and what it resolves to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, overload

import attrs

from deferred_expand.airflow_internals.sdk import PlainXComArg
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import DefinitionError, SourceNotImportable, StreamError
from deferred_expand.operators.reader import StreamReader
from deferred_expand.shaping.pipeline import shape_one
from deferred_expand.shaping.steps import Kind, Step, Steps

if TYPE_CHECKING:
    from deferred_expand.operators.deferred_expand import DeferredExpandOperator
    from deferred_expand.streams.commit_log import CommitLog

UNSET = object()

Function = Callable[[Any], Any] | str
"""A function, or its ``"package.module:name"``."""


@attrs.define
class StreamReference(PlainXComArg):
    """
    A stream, to be given to ``.expand()`` or ``.expand_kwargs()``, or to a task that reads it.

    For Airflow's serialization it is a plain reference to the unmapped task, whose mapped length
    the scheduler follows. It must have no length itself: ``expand_kwargs`` takes what has one for a
    literal (airflow/sdk/definitions/_internal/expandinput.py, ``ListOfDictsExpandInput.resolve``).

    :param steps: what becomes of each item.
    """

    steps: Steps = ()

    @property
    def stream(self) -> DeferredExpandOperator:
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

    def resolve(self, context: Any) -> StreamItems | StreamReader:
        store = StreamStore(self.stream.stream_ref(context))
        if context["ti"].task_id == self.stream.mapped_task_id:
            return StreamItems(store, self.stream.item_steps, context["ti"].map_index)
        return StreamReader(store, self.steps)

    def __getitem__(self, key: str) -> NoReturn:
        raise DefinitionError(
            f"{self.stream.where}: [{key!r}] of a stream is not supported: use .map(), or read the whole "
            "stream in a task"
        )

    def _with(self, kind: Kind, function: Function) -> StreamReference:
        try:
            return attrs.evolve(self, steps=(*self.steps, Step.of(kind, function)))
        except SourceNotImportable as error:
            raise SourceNotImportable(f"{self.stream.where}: .{kind}(): {error}") from error

    def _combine(self, how: str, others: Sequence[Any], **options: Any) -> StreamReference:
        from deferred_expand.operators.branch import combine

        for other in others:
            if not isinstance(other, StreamReference):
                raise DefinitionError(
                    f"{self.stream.where}: .{how}() takes outputs of DeferredExpandOperators, not {other!r}"
                )
        return combine(how, (self, *others), options)


class StreamItems(Sequence[Any]):
    """
    The committed items of a stream, by map index: item n has map index n, the stream head has 0.

    Nothing is read before it is asked for, and then one batch at a time.

    :param steps: maps that are applied here.
    :param map_index: of the instance that asks.
    """

    def __init__(self, store: StreamStore, steps: Steps = (), map_index: int = 0) -> None:
        self._store = store
        self._steps = steps
        self._map_index = map_index

    @cached_property
    def _log(self) -> CommitLog:
        log = self._store.read_log()
        if log is None:
            ref = self._store.ref
            raise StreamError(
                f"the stream of task {ref.task_id!r} in DAG {ref.dag_id!r}, run {ref.run_id!r}, was "
                f"never opened, or its XComs were deleted. Clear {ref.task_id!r} with its downstream"
            )
        return log

    def __len__(self) -> int:
        return 1 + self._log.items

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        if self._map_index >= len(self):
            # Airflow counts modulo the length (airflow/sdk/definitions/_internal/expandinput.py), which
            # would give the item of another one to an instance that a shorter stream has no item for.
            index = self._map_index
        return shape_one(self._store.read_item(self._log, index), self._steps)

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(1, len(self)))
