"""What a person may change while items run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from deferred_expand.streams.tolerance import Tolerance

LIMITS_KEY = "deferred_expand.limits"
"""Of the task state store, where a person may write them."""


@dataclass(frozen=True)
class Limits:
    """
    :param concurrency: items that run at a time.
    :param tolerate: as the author, or a person, wrote it.
    :param stop: take no more items.
    """

    concurrency: int
    tolerate: int | str = 0
    stop: bool = False

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance.of(self.tolerate)

    def to_json(self) -> dict[str, Any]:
        return {"concurrency": self.concurrency, "tolerate": self.tolerate, "stop": self.stop}

    def changed_by(self, written: Any) -> Limits:
        """
        As a person has written them; what is left out stays.

        :raises ValueError: naming what is wrong.
        """
        if not isinstance(written, dict):
            raise ValueError(f"limits are {written!r}; they must be like {self.to_json()}")
        unknown = sorted(set(written) - set(self.to_json()))
        if unknown:
            raise ValueError(f"there is no limit {unknown[0]!r}; there are {', '.join(self.to_json())}")
        limits = replace(self, **written)
        check_concurrency(limits.concurrency)
        Tolerance.of(limits.tolerate)
        if not isinstance(limits.stop, bool):
            raise ValueError(f"stop is {limits.stop!r}; it must be true or false")
        return limits


def check_concurrency(given: object) -> None:
    """:raises ValueError: saying what it must be."""
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ValueError(f"concurrency is {given!r}; it must be a whole number of items, 1 or more")
