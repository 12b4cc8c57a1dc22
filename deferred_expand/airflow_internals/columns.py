"""What a task is mapped over, value by value, in the order in which Airflow would number its instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput, ListOfDictsExpandInput
from airflow.sdk.definitions.xcom_arg import _ConcatResult, _MapResult, _ZipResult
from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

SLICE = 100  # values that are asked for at once

ExpandInput = DictOfListsExpandInput | ListOfDictsExpandInput


@runtime_checkable
class Column(Protocol):
    """Values that can be read apart from what the author's functions make of them."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any:
        """As XCom holds it. May ask Airflow."""

    def finish(self, value: Any) -> Any:
        """What ``.map()`` makes of what was read; raises what the author's functions raise."""


class _Plain:
    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def read(self, index: int) -> Any:
        return self._values[index]

    def finish(self, value: Any) -> Any:
        return value


class _Lazy(_Plain):
    """XComs of many instances, asked for in slices."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__(values)
        self._first, self._slice = 0, list[Any]()

    def read(self, index: int) -> Any:
        if not self._first <= index < self._first + len(self._slice):
            self._first, self._slice = index, list(self._values[index : index + SLICE])
        return self._slice[index - self._first]


class _Mapped:
    def __init__(self, result: _MapResult) -> None:
        self._inner, self._functions = column_of(result.value), result.callables

    def __len__(self) -> int:
        return len(self._inner)

    def read(self, index: int) -> Any:
        return self._inner.read(index)

    def finish(self, value: Any) -> Any:
        value = self._inner.finish(value)
        for function in self._functions:
            value = function(value)
        return value


class _Zipped:
    def __init__(self, result: _ZipResult) -> None:
        self._inner = [column_of(value) for value in result.values]
        self._length, self._fill = len(result), result.fillvalue

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> Any:
        return [[inner.read(index)] if index < len(inner) else [] for inner in self._inner]

    def finish(self, value: Any) -> Any:
        pairs = zip(self._inner, value, strict=True)
        return tuple(inner.finish(read[0]) if read else self._fill for inner, read in pairs)


class _Chained:
    def __init__(self, result: _ConcatResult) -> None:
        self._inner = [column_of(value) for value in result.values]

    def __len__(self) -> int:
        return sum(map(len, self._inner))

    def read(self, index: int) -> Any:
        for number, inner in enumerate(self._inner):
            if index < len(inner):
                return [number, inner.read(index)]
            index -= len(inner)
        raise IndexError(index)

    def finish(self, value: Any) -> Any:
        number, read = value
        return self._inner[number].finish(read)


def column_of(values: Any) -> Column:
    """:raises TypeError: it is nothing that a task can be mapped over."""
    if isinstance(values, Column):
        return values
    if isinstance(values, _MapResult):
        return _Mapped(values)
    if isinstance(values, _ZipResult):
        return _Zipped(values)
    if isinstance(values, _ConcatResult):
        return _Chained(values)
    if isinstance(values, LazyXComSequence):
        return _Lazy(values)
    if isinstance(values, Mapping):
        return _Plain(list(values.items()))
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        return _Plain(values)
    raise TypeError(f"can't map over value of type {type(values).__name__}")


class Arguments:
    """
    What each item is given: a combination of lists, the last one fastest, or a mapping of a list.

    Making it, and reading, may ask Airflow.

    :raises TypeError: it is nothing that a task can be mapped over.
    """

    def __init__(self, given: ExpandInput, context: Any) -> None:
        self._given, self._context = given, context
        values: dict[str, Any] = (
            given.value if isinstance(given, DictOfListsExpandInput) else {"": given.value}
        )
        self._columns: dict[str, Column] = {}
        for name, value in values.items():
            self._columns[name] = column_of(value.resolve(context) if _is_resolved(value) else value)

    def __len__(self) -> int:
        length = 1
        for column in self._columns.values():
            length *= len(column)
        return length

    def read(self, index: int) -> dict[str, Any]:
        """As XCom holds them, by name."""
        found: dict[str, Any] = {}
        for name in reversed(self._columns):
            column = self._columns[name]
            index, place = divmod(index, len(column))
            found[name] = column.read(place)
        return found

    def finish(self, read: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
        """
        :return: the arguments, and the names of those that are no templates.
        :raises ValueError: it is no mapping, or its keys are no names.
        """
        finished = {name: self._columns[name].finish(read[name]) for name in self._columns}
        if isinstance(self._given, DictOfListsExpandInput):
            return finished, {name for name, value in self._given.value.items() if _is_resolved(value)}
        mapping = finished[""]
        from_xcom = _is_resolved(self._given.value) or _is_resolved(mapping)
        if _is_resolved(mapping):
            mapping = mapping.resolve(self._context)
        if not isinstance(mapping, Mapping) or not all(isinstance(name, str) for name in mapping):
            raise ValueError(f"over_kwargs() expects dicts with names as keys, not {mapping!r:.200}")
        return dict(mapping), set(mapping) if from_xcom else set()


def _is_resolved(value: Any) -> bool:
    """Whether it is known when the task runs, and not before."""
    return hasattr(value, "resolve")
