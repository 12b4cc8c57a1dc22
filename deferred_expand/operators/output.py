"""``users.output``: a reference to a stream, and what it resolves to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, overload

import attrs

from deferred_expand.airflow_internals.sdk import PlainXComArg
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import DefinitionError, StreamError

if TYPE_CHECKING:
    from deferred_expand.operators.deferred_expand import DeferredExpandOperator
    from deferred_expand.streams.commit_log import CommitLog


@attrs.define
class StreamReference(PlainXComArg):
    """
    A stream, to be given to ``.expand()`` or ``.expand_kwargs()``.

    For Airflow's serialization it is a plain reference to the unmapped task, whose mapped length
    the scheduler follows. It must have no length itself: ``expand_kwargs`` takes what has one for a
    literal (airflow/sdk/definitions/_internal/expandinput.py, ``ListOfDictsExpandInput.resolve``).
    """

    @property
    def stream(self) -> DeferredExpandOperator:
        return self.operator  # type: ignore[return-value]

    def resolve(self, context: Any) -> StreamItems:
        if context["ti"].task_id != self.stream.mapped_task_id:
            raise StreamError(
                f"task {context['ti'].task_id!r} of DAG {context['ti'].dag_id!r} reads the output of "
                f"{self.stream.task_id!r}, which is a stream and has no value of its own: expand a "
                "task over it with .expand() or .expand_kwargs()"
            )
        return StreamItems(StreamStore(self.stream.stream_ref(context)))

    def __getitem__(self, key: str) -> NoReturn:
        self._refuse(f"[{key!r}]")

    def map(self, f: object) -> NoReturn:
        self._refuse(".map()")

    def zip(self, *others: object, fillvalue: object = None) -> NoReturn:
        self._refuse(".zip()")

    def concat(self, *others: object) -> NoReturn:
        self._refuse(".concat()")

    def _refuse(self, what: str) -> NoReturn:
        raise DefinitionError(
            f"{self.stream.where}: {what} of a stream is not supported: shape the items in the "
            "source, or in the mapped task"
        )


class StreamItems(Sequence[Any]):
    """
    The committed items of a stream, by map index: item n has map index n, the stream head has 0.

    Nothing is read before it is asked for, and then one batch at a time.
    """

    def __init__(self, store: StreamStore) -> None:
        self._store = store

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
        return self._store.read_item(self._log, index)

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(1, len(self)))
