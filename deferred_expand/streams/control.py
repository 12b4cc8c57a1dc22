"""What a person may change of a stream while it is walked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from deferred_expand.streams.tolerance import Tolerance

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True)
class Control:
    """
    As the DAG says, or as a person has written it over that.

    :param paused: the source is asked for nothing, and nothing becomes an instance.
    :param max_pending: items, batches or windows that are not finished at most.
    :param rate_limit: items per second.
    :param tolerate: instances that may fail before the stream ends.
    """

    paused: bool = False
    max_pending: int | None = None
    rate_limit: float | None = None
    tolerate: int | str | None = None

    @property
    def tolerance(self) -> Tolerance | None:
        return None if self.tolerate is None else Tolerance.of(self.tolerate)

    def changed_by(self, written: Any, uncounted: Collection[str] = ()) -> Control:
        """
        What is left out, or is null, stays as it is.

        :param written: by a person; ``None``: nothing is.
        :param uncounted: names of what counts instances that there are none of.
        :raises ValueError: naming what is wrong.
        """
        if written is None:
            return self
        if not isinstance(written, dict):
            raise ValueError(f"it is {written!r}; it must be like {asdict(self)}")
        unknown = sorted(set(written) - set(asdict(self)), key=str)
        if unknown:
            raise ValueError(f"there is no {unknown[0]!r}; there are {', '.join(asdict(self))}")
        for name in uncounted:
            if written.get(name) is not None:
                raise ValueError(f"{name} counts instances of items, of which this stream has none")
        changed = replace(self, **{name: value for name, value in written.items() if value is not None})
        changed._check()
        return changed

    def _check(self) -> None:
        if not isinstance(self.paused, bool):
            raise ValueError(f"paused is {self.paused!r}; it must be true or false")
        pending, rate = self.max_pending, self.rate_limit
        if pending is not None and (isinstance(pending, bool) or not isinstance(pending, int) or pending < 1):
            raise ValueError(f"max_pending is {pending!r}; it must be a whole number of items, 1 or more")
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf")
        ):
            raise ValueError(f"rate_limit is {rate!r}; it must be a number of items per second above 0")
        if self.tolerate is not None:
            Tolerance.of(self.tolerate)

    def without_max_pending(self) -> Control:
        """Where nothing runs before the stream has ended."""
        return replace(self, max_pending=None)

    def describe(self) -> str:
        """For people."""
        named = asdict(self)
        paused = "paused, " if named.pop("paused") else ""
        return paused + ", ".join(f"{name}={value!r}" for name, value in named.items())
