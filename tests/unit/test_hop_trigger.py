"""One hop whose sync halves are a worker's."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import pytest

from deferred_expand.airflow_internals.sdk import TRIGGER_FAILURE, TRIGGER_TIMEOUT
from deferred_expand.sources.chain import Hop
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.triggers.hop import HopTrigger
from tests.unit import operators


async def outcome(
    how: str, timeout: float | None = None, limits: Any = None, waited: float = 0.0, **retry: Any
) -> dict[str, Any]:
    """What is sent to the worker, without the hop and the time that it took."""
    path, arguments = operators.TellTrigger(7, how).serialize()
    hop = Hop((path, arguments), "take", {"secret": "hunter2"}, timeout)
    cursor = seal(hop.to_cursor())
    trigger = HopTrigger(
        stream="s", hop=cursor, operator=None, retry=retry or None, limits=limits, waited=waited
    )
    path, arguments = trigger.serialize()
    assert path == "deferred_expand.triggers.hop.HopTrigger"
    async with aclosing(HopTrigger(**arguments).run()) as events:  # type: ignore[type-var]
        payloads = [event.payload async for event in events]
    [payload] = payloads
    assert payload.pop("stream") == "s"
    assert Hop.from_cursor(unseal(payload.pop("hop"))) == hop
    assert payload.pop("waited") >= waited
    return dict(payload)


@pytest.mark.asyncio
async def test_the_event_goes_to_the_worker() -> None:
    assert await outcome("event") == {"event": 7}
    assert await outcome("twice") == {"event": 7}


@pytest.mark.asyncio
async def test_what_the_trigger_gives_when_it_ends_the_task() -> None:
    assert await outcome("ends") == {"over": ["last"]}


@pytest.mark.asyncio
async def test_a_failure_goes_to_the_worker_as_airflow_tells_it() -> None:
    reason, lines = (await outcome("raises"))["failed"]
    assert reason == TRIGGER_FAILURE
    assert lines[-1] == "LookupError: the trigger broke\n"
    reason, lines = (await outcome("nothing"))["failed"]
    assert "Trigger exited without sending an event" in lines[-1]
    assert await outcome("hangs", timeout=0.05) == {"failed": [TRIGGER_TIMEOUT, None]}


@pytest.mark.asyncio
async def test_a_hiccup_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators.TellTrigger, "asked", 0)
    assert await outcome("second time", attempts=2, wait=0.01) == {"event": 7}
    monkeypatch.setattr(operators.TellTrigger, "asked", 0)
    _reason, lines = (await outcome("second time", attempts=1))["failed"]
    assert lines[-1] == "ConnectionResetError\n"


NAME = "source of task 'users' in DAG 'crm'"


@pytest.mark.asyncio
async def test_a_hop_that_takes_longer_than_a_page_may_is_asked_again_and_named() -> None:
    late = {"late": f"{NAME} gave nothing for 0.1 s, its page_timeout"}
    limits = {"name": NAME, "page_timeout": 0.1}
    began = time.monotonic()
    assert await outcome("hangs", limits=limits, attempts=3, wait=0.01) == late
    assert time.monotonic() - began > 0.3, "three times"
    assert await outcome("event", limits=limits) == {"event": 7}
    assert await outcome("hangs", timeout=0.05, limits=limits) == {"failed": [TRIGGER_TIMEOUT, None]}


@pytest.mark.asyncio
async def test_what_the_try_has_waited_before_counts_for_a_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators.TellTrigger, "asked", 0)
    late = {"late": f"{NAME} was waited for longer than the execution_timeout of the task, 10 s in all"}
    limits = {"name": NAME, "execution_timeout": 10.0, "page_timeout": 60.0}
    began = time.monotonic()
    assert await outcome("hangs", limits=limits, waited=9.9, attempts=9) == late
    assert await outcome("second time", limits=limits, waited=9.9, attempts=9, wait=600) == late, (
        "the pause before it is asked again counts"
    )
    assert time.monotonic() - began < 30
    assert await outcome("event", limits=limits, waited=9.0) == {"event": 7}
