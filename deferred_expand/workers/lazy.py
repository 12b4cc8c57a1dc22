"""Sequences whose values are read when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """One that says what is at an index; slices are made of that."""

    @abstractmethod
    def at(self, index: int) -> T:
        """:raises IndexError: there is nothing."""

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self.at(n) for n in range(*index.indices(len(self)))]
        return self.at(index)
