"""Which errors a source may get over, how often, and after how long."""

from __future__ import annotations

from email.utils import formatdate
from time import time
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from deferred_expand import SourceRetry
from deferred_expand.streams.page import Position
from deferred_expand.walking.retry import Reopenings, is_transient


def answered(status: int, **headers: str) -> aiohttp.ClientResponseError:
    """What aiohttp raises for an answer."""
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    request = aiohttp.RequestInfo(URL("http://localhost"), "GET", CIMultiDictProxy(CIMultiDict()))
    return aiohttp.ClientResponseError(request, (), status=status, headers=named)


def wrapped(error: Exception) -> Exception:
    try:
        raise RuntimeError("of a library on top") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        *((answered(status), True) for status in (429, 500, 502, 503, 504)),
        *((answered(status), False) for status in (400, 401, 403, 404, 501)),
        (aiohttp.ClientPayloadError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (wrapped(answered(503)), True),
        (wrapped(KeyError("name")), False),
        (ValueError(), False),
    ],
    ids=repr,
)
def test_a_hiccup_is_told_from_a_failure(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_waits_double_up_to_the_longest() -> None:
    policy = SourceRetry(wait=2, longest_wait=10)
    assert [policy.delay(ConnectionError(), attempt) for attempt in range(1, 5)] == [2, 4, 8, 10]


def test_what_the_source_asks_for_counts_instead() -> None:
    policy = SourceRetry(wait=2)
    assert policy.delay(answered(429, Retry_After="17"), 1) == 17
    assert policy.delay(wrapped(answered(503, retry_after="90")), 4) == 90
    at = formatdate(time() + 100, usegmt=True)
    assert policy.delay(answered(503, Retry_After=at), 1) == pytest.approx(100, abs=5)
    assert policy.delay(answered(503, Retry_After="soon"), 1) == 2


def delays(reopenings: Reopenings, error: Any, place: Position, times: int) -> list[float | None]:
    return [reopenings.delay(error, place) for _ in range(times)]


def test_each_page_has_attempts_of_its_own() -> None:
    reopenings = Reopenings(0, SourceRetry(attempts=3))
    for page in range(500):
        assert delays(reopenings, ConnectionError(), Position(page), 2) == [1, 2]
    assert delays(reopenings, ConnectionError(), Position(500), 3) == [1, 2, None]


def test_source_retries_come_after_the_attempts_and_serve_other_errors_too() -> None:
    reopenings = Reopenings(2, SourceRetry(attempts=2))
    assert delays(reopenings, ConnectionError(), Position(1), 3) == [1, 1, 2]
    assert reopenings.delay(ValueError(), Position(2)) is None
    assert delays(Reopenings(1, None), ConnectionError(), Position(1), 2) == [1, None]


@pytest.mark.parametrize("policy", [None, SourceRetry(attempts=2)], ids=["a function", "an operator"])
def test_a_source_is_never_asked_before_it_has_said(policy: SourceRetry | None) -> None:
    reopenings = Reopenings(3, policy)
    waits = delays(reopenings, answered(429, Retry_After="40"), Position(1), 3)
    assert waits == [40, 40, 40], "also by retries that would come sooner"


@pytest.mark.parametrize("policy", [None, SourceRetry()], ids=["a function", "an operator"])
def test_a_source_that_asks_for_a_day_fails_at_once(policy: SourceRetry | None) -> None:
    reopenings, error = Reopenings(3, policy), answered(429, Retry_After="86400")
    assert reopenings.delay(error, Position(1)) is None
    assert "a Retry-After of 86400 s, more than SourceRetry(longest_retry_after=3600) allows" in (
        reopenings.asks_too_much(error)
    )
    assert reopenings.asks_too_much(ConnectionError()) == ""
    patient = Reopenings(3, SourceRetry(longest_retry_after=100_000))
    assert patient.delay(error, Position(1)) == 86400


@pytest.mark.parametrize("value", ["inf", "nan", "-5"])
def test_a_retry_after_that_is_no_time(value: str) -> None:
    delay = SourceRetry(wait=2).delay(answered(429, Retry_After=value), 1)
    assert delay is None if value == "inf" else delay == 0
