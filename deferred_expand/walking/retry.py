"""When a source that raised is opened again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deferred_expand.streams.page import Position

TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
LONGEST_REOPEN_WAIT = 30.0  # seconds


@dataclass(frozen=True)
class SourceRetry:
    """
    What a hiccup of a source may cost: HTTP status 429 or 5xx, a connection that breaks, a time-out.

    The count begins anew with every page, so that a stream of 500 pages outlives 500 hiccups.

    :param attempts: how often a page is asked for.
    :param wait: seconds before the second time; doubles from then on. A ``Retry-After`` that the
        source sent counts instead.
    :param longest_wait: seconds at which the doubling ends.
    :param longest_retry_after: seconds; a source that asks to wait for longer fails at once, with that
        to be read in the failure, and is not asked before.
    """

    attempts: int = 5
    wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 3600.0

    def delay(self, error: BaseException, attempt: int) -> float | None:
        """Seconds to wait after the attempt with this number, counted from 1; ``None``: too long."""
        asked_for = retry_after(error)
        if asked_for is not None:
            return asked_for if asked_for <= self.longest_retry_after else None
        return float(min(self.wait * 2 ** (attempt - 1), self.longest_wait))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Reopenings:
    """How often one walk has opened its source again, and why."""

    def __init__(self, source_retries: int, policy: SourceRetry | None) -> None:
        self._left = source_retries
        self._retries = 0
        self._policy = policy
        self._longest = (policy or SourceRetry()).longest_retry_after
        self._place: Position | None = None
        self._attempts = 0

    def delay(self, error: BaseException, place: Position) -> float | None:
        """
        Seconds until the source may be opened again; ``None``: it may not.

        :param place: that the source had reached when it raised.
        """
        asked_for = retry_after(error) or 0.0
        if asked_for > self._longest:
            return None
        if self._policy is not None and is_transient(error):
            if place != self._place:
                self._place, self._attempts = place, 0
            self._attempts += 1
            if self._attempts < self._policy.attempts:
                return self._policy.delay(error, self._attempts)
        if not self._left:
            return None
        self._left -= 1
        self._retries += 1
        return max(asked_for, float(min(2.0 ** (self._retries - 1), LONGEST_REOPEN_WAIT)))

    def asks_too_much(self, error: BaseException) -> str:
        """For the message, where a ``Retry-After`` is why the source is not asked again."""
        asked_for = retry_after(error) or 0.0
        if asked_for <= self._longest:
            return ""
        return (
            f", with a Retry-After of {asked_for:.0f} s, more than SourceRetry(longest_retry_after="
            f"{self._longest:g}) allows: clear the instance with map index 0 when that time is over, or "
            "raise it"
        )


def is_transient(error: BaseException) -> bool:
    return any(
        isinstance(cause, _transient_errors()) or _status(cause) in TRANSIENT_STATUSES
        for cause in _causes(error)
    )


def retry_after(error: BaseException) -> float | None:
    """Seconds that the source asked to wait, if it did (RFC 9110, section 10.2.3)."""
    for cause in _causes(error):
        headers = getattr(cause, "headers", None)
        if isinstance(headers, Mapping) and (value := headers.get("Retry-After")):
            try:
                return max(0.0, float(value))
            except ValueError:
                pass
            try:
                return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
            except ValueError:
                return None
    return None


@cache
def _transient_errors() -> tuple[type[BaseException], ...]:
    import aiohttp  # costs a tenth of a second, which DAG files need not pay

    return (
        ConnectionError,
        TimeoutError,
        asyncio.TimeoutError,
        aiohttp.ClientConnectionError,
        aiohttp.ClientPayloadError,
    )


def _status(error: BaseException) -> int | None:
    for name in ("status", "status_code", "response_status_code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return int(value)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from or while."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
