"""Operators and triggers as sources, hop by hop."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    TaskDeferralError,
    TaskDeferralTimeout,
)
from airflow.triggers.base import TriggerEvent

from deferred_expand.exceptions import SourceGaveUp, SourceSkipped
from deferred_expand.sources.arguments import can_travel, pack, unpack
from deferred_expand.sources.hops import first_event
from deferred_expand.sources.opening import open_source, with_own_outcomes
from deferred_expand.streams.ref import StreamRef
from deferred_expand.walking.threads import Threads
from tests.unit import operators
from tests.unit.helpers import virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from deferred_expand.streams.page import JSON, Page

REF = StreamRef("dag", "run", "users", "insert")


async def pages_of(source: Any, cursor: JSON = None, **kwargs: Any) -> AsyncGenerator[Any, None]:
    thread = Threads("test")
    opened = open_source(source, kwargs, cursor, thread, ref=REF, try_number=1, outer=None)
    try:
        async with aclosing(with_own_outcomes(opened)) as pages:
            async for page in pages:
                yield page
    finally:
        thread.close()


async def walk(source: Any, cursor: JSON = None, **kwargs: Any) -> list[Any]:
    async with aclosing(pages_of(source, cursor, **kwargs)) as pages:
        return [page async for page in pages]


def items(pages: list[Page]) -> list[Any]:
    return [item for page in pages for item in page.items]


@pytest.mark.asyncio
async def test_each_hop_is_a_page() -> None:
    pages = await walk(operators.PagingOperator, pages=3)
    assert [page.items for page in pages] == [[], ["0a", "0b"], ["1a", "1b"], ["2a", "2b"]]


@pytest.mark.asyncio
async def test_it_goes_on_after_any_page_as_if_nothing_had_happened() -> None:
    whole = await walk(operators.PagingOperator, pages=4)
    for taken, page in enumerate(whole, 1):
        cursor = json.loads(json.dumps(page.cursor))
        rest = await walk(operators.PagingOperator, cursor, pages=4)
        assert items(whole[:taken]) + items(rest) == items(whole)


@pytest.mark.asyncio
async def test_a_chain_of_thousands_of_hops_needs_no_more_memory_than_a_short_one() -> None:
    thread = Threads("test")

    async def peak(hops: int) -> int:
        tracemalloc.start()
        opened = open_source(
            operators.PagingOperator, {"pages": hops}, None, thread, ref=REF, try_number=1, outer=None
        )
        count = 0
        async with aclosing(opened) as pages:
            async for page in pages:
                count += len(page.items)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 2 * hops
        return used

    await peak(20)
    short, long = await peak(20), await peak(2000)
    thread.close()
    assert long < short + 300_000


@pytest.mark.asyncio
async def test_an_operator_that_never_defers_gives_what_it_returns() -> None:
    (page,) = await walk(operators.ReturningOperator, result=[1, 2, 3])
    assert page.items == [1, 2, 3]
    (page,) = await walk(operators.ReturningOperator, result={"one": 1})
    assert page.items == [{"one": 1}]
    (page,) = await walk(operators.ReturningOperator, result=None)
    assert page.items == []


@pytest.mark.asyncio
async def test_nothing_is_asked_again_after_the_last_page() -> None:
    *_, last = await walk(operators.PagingOperator, pages=2)
    assert await walk(operators.PagingOperator, last.cursor, pages=2) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["raises", "exits"])
async def test_a_trigger_that_fails_fails_the_operator_as_natively(how: str) -> None:
    with pytest.raises(TaskDeferralError, match="Trigger failure"):
        await walk(operators.PagingOperator, pages=2, how=how)


@pytest.mark.asyncio
async def test_a_trigger_that_sends_nothing_fails_the_operator_as_natively() -> None:
    with pytest.raises(TaskDeferralError, match="Trigger failure"):
        await walk(operators.PagingOperator, pages=2, how="nothing")


@pytest.mark.asyncio
async def test_a_trigger_that_takes_too_long_fails_the_operator_as_natively() -> None:
    with pytest.raises(TaskDeferralTimeout, match="Trigger timeout"):
        await walk(operators.PagingOperator, pages=2, how="hangs", timeout=0.1)


@pytest.mark.asyncio
async def test_only_a_triggers_first_event_counts_as_natively() -> None:
    assert len(items(await walk(operators.PagingOperator, pages=3, how="twice"))) == 6


@pytest.mark.asyncio
async def test_a_trigger_that_ends_the_task_ends_the_chain() -> None:
    assert items(await walk(operators.PagingOperator, pages=3, how="ends")) == ["last"]


@pytest.mark.asyncio
async def test_skip_and_fail_keep_their_meaning() -> None:
    with pytest.raises(SourceSkipped, match="by the operator"):
        await walk(operators.RaisingOperator, error=AirflowSkipException)
    with pytest.raises(SourceGaveUp, match="by the operator"):
        await walk(operators.RaisingOperator, error=AirflowFailException)


@pytest.mark.asyncio
async def test_an_operator_that_asks_to_come_back_is_asked_again() -> None:
    operators.ReschedulingOperator.asked = 0
    assert items(await walk(operators.ReschedulingOperator)) == ["at last"]
    assert operators.ReschedulingOperator.asked == 2


@pytest.mark.asyncio
async def test_it_is_executed_as_in_a_task_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    pages = await walk(operators.PagingOperator, pages=2, allow_nested_operators=False)
    assert items(pages) == ["0a", "0b", "1a", "1b"]
    assert "outside of the Task Runner" not in caplog.text


@pytest.mark.asyncio
async def test_a_trigger_gives_an_item_with_each_event() -> None:
    assert await walk(operators.NoteTrigger, count=3) == [0, 1, 2]


def test_functions_and_classes_travel_by_name() -> None:
    given = {"filter": items, "many": [operators.TellTrigger, {"plain": 1}], "text": "hello"}
    packed = json.loads(json.dumps(pack(given)))
    assert unpack(packed) == given
    assert not can_travel({"filter": lambda page: page})


class _Lingering(operators.TellTrigger):
    """Takes a while to end, and is cancelled by what it awaits when it is to ``raise``."""

    cleaned_up = 0

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            if self.how == "raises":
                raise asyncio.CancelledError
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self.how == "lingers")
        yield TriggerEvent(None)

    async def cleanup(self) -> None:
        _Lingering.cleaned_up += 1


@pytest.mark.asyncio
@virtual_time
async def test_who_waits_for_an_event_can_be_cancelled_also_while_the_trigger_ends() -> None:
    waiting = asyncio.create_task(first_event(_Lingering(how="lingers"), 1.0, None))
    await asyncio.sleep(1.5)  # its time is over, and it lingers
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert _Lingering.cleaned_up == 1


@pytest.mark.asyncio
async def test_a_trigger_cancelled_by_what_it_awaits_has_failed() -> None:
    with pytest.raises(RuntimeError, match="cancelled by what it awaits"):
        await first_event(_Lingering(how="raises"), None, None)
