"""How items are run that share task instances."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from deferred_expand.iterating.limits import Limits, check_concurrency
from deferred_expand.streams.tolerance import Tolerance
from deferred_expand.walking.retry import SourceRetry


@dataclass(frozen=True)
class IterateOptions:
    """
    :param concurrency: items that run at a time, in each instance.
    :param instances: that the items are dealt out to; ``None``: each has a batch of a stream.
    :param tolerate: items that may fail in an instance: a number, or a share like ``"5%"``.
    :param retry: of an item, within a try of the instance.
    :param checkpoint: seconds for which an item that has ended may stay unwritten.
    :param instance_timeout: of a try of an instance.
    :param limits_interval: seconds after which an instance that is deferred sees what a person has changed.
    """

    concurrency: int = 16
    instances: int | None = 1
    tolerate: int | str = 0
    retry: SourceRetry | None = None
    checkpoint: float = 1.0
    instance_timeout: timedelta | None = None
    limits_interval: float = 300.0

    def check(self) -> None:
        """:raises ValueError: naming what is wrong."""
        check_concurrency(self.concurrency)
        Tolerance.of(self.tolerate)
        if self.instances is not None and not _is_count(self.instances):
            raise ValueError(f"instances is {self.instances!r}; it must be a whole number, 1 or more")
        if not (_is_number(self.checkpoint) and self.checkpoint >= 0):
            raise ValueError(f"checkpoint is {self.checkpoint!r}; it must be a number of seconds, 0 or more")
        if not (_is_number(self.limits_interval) and self.limits_interval > 0):
            raise ValueError(f"limits_interval is {self.limits_interval!r}; it must be a number of seconds")
        if self.retry is not None and not isinstance(self.retry, SourceRetry):
            raise ValueError(f"retry is {self.retry!r}; it must be a SourceRetry")

    def share_of(self, map_index: int, items: int) -> range:
        """Those that an instance runs."""
        return range(items) if self.instances is None else range(map_index, items, self.instances)

    @property
    def limits(self) -> Limits:
        return Limits(self.concurrency, self.tolerate)


def _is_number(given: object) -> bool:
    return isinstance(given, (int, float)) and not isinstance(given, bool)


def _is_count(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 1


def seconds(given: float | timedelta | None) -> float | None:
    """As Airflow reads a time-out; a number is one of seconds."""
    return float(given.total_seconds()) if isinstance(given, timedelta) else given
