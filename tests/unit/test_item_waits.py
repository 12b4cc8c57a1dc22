"""Items that wait: what is kept of them, who waits in their stead, and how they go on."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors

from deferred_expand.airflow_internals.sdk import TRIGGER_FAILURE, TRIGGER_TIMEOUT
from deferred_expand.iterating.ledger import WAITING, Ledger
from deferred_expand.iterating.spool import Row, Spool
from deferred_expand.sources.chain import Hop
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.triggers import items
from deferred_expand.triggers.items import ItemsTrigger
from deferred_expand.workers.item_waits import ItemWait, take_outcomes, trigger_of
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.unit import operators

if TYPE_CHECKING:
    from collections.abc import Iterator

WHERE: dict[str, Any] = {"dag_id": DAG_ID, "run_id": RUN_ID, "task_id": "items", "map_index": 0}
SOON = 30.0  # seconds; longer than what is to be seen before


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    monkeypatch.setattr(items, "GATHER", 0.05)
    return airflow


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    records: dict[str, Any] = {}
    store: Any = SimpleNamespace(get=records.get, set=records.__setitem__, delete=records.pop)
    spool = Spool()
    yield Ledger(store, spool, 1, 1)
    spool.close()


def context(index: int = 5) -> Any:
    ti = SimpleNamespace(item_index=index, pushed={})
    return {"ti": ti, "outlet_events": OutletEventAccessors()}


def hop(how: str, payload: Any = 7, timeout: float | None = None) -> Hop:
    return Hop(operators.TellTrigger(payload, how).serialize(), "take", {"secret": "hunter2"}, timeout)


def kept(how: str, payload: Any = 7, timeout: float | None = None, ends: float | None = None) -> Any:
    found = ItemWait(context(), ends, None).keep(hop(how, payload, timeout))
    return json.loads(json.dumps(found))


def walk(*waiting: Any, until: float = SOON) -> dict[str, Any]:
    """The event of a trigger that waits for items 0, 1 and so on."""
    return asyncio.run(asyncio.wait_for(_walk(*waiting, until=until), 2 * SOON))


async def _walk(*waiting: Any, until: float) -> dict[str, Any]:
    trigger = trigger_of(dict(enumerate(waiting)), WHERE, time.time() + until)
    path, arguments = trigger.serialize()
    assert path == "deferred_expand.triggers.items.ItemsTrigger"
    assert "hunter2" not in json.dumps(arguments)
    async with aclosing(ItemsTrigger(**json.loads(json.dumps(arguments))).run()) as events:  # type: ignore[type-var]
        [event] = [event async for event in events]
    return dict(event.payload)


def told(ledger: Ledger, event: dict[str, Any], count: int, largest: int | None = None) -> dict[int, Any]:
    """What items go on with, by their index."""
    for index in range(count):
        ledger.add(Row(index, "", WAITING, None, {}))
    take_outcomes(ledger, event, WHERE, largest)
    found = {index: (ledger.kept(index, "") or {}).get("outcome") for index in range(count)}
    return {index: unseal(outcome) for index, outcome in found.items() if outcome is not None}


def test_what_triggers_tell_comes_back_as_xcoms_and_goes_into_the_ledger(
    airflow: MemoryAirflow, ledger: Ledger
) -> None:
    event = walk(
        kept("event", {"rows": (1, 2)}),
        kept("ends"),
        kept("nothing"),
        kept("hangs", timeout=0.02),
    )
    assert event.keys() == {"name", "chunks"}, "no payload of an item"
    assert {key for _, _, key in airflow.tables.xcoms} == {f"deferred_expand.waited.{event['name']}.0"}
    outcomes = told(ledger, event, 5)
    reason, lines = outcomes.pop(2)["failed"]
    assert reason == TRIGGER_FAILURE
    assert "Trigger exited without sending an event" in lines[-1]
    assert outcomes == {
        0: {"event": {"rows": (1, 2)}},
        1: {"over": ["last"]},
        3: {"failed": [TRIGGER_TIMEOUT, None]},
    }
    assert not airflow.tables.xcoms, "nobody reads them again"
    assert not ledger.unwritten


def test_who_goes_on_does_not_wait_for_all(airflow: MemoryAirflow, ledger: Ledger) -> None:
    assert told(ledger, walk(kept("hangs"), kept("event")), 2) == {1: {"event": 7}}
    assert (walk(kept("hangs"), until=0.05))["chunks"] == 0
    assert (walk(kept("hangs", ends=time.time() + 0.05)))["chunks"] == 0


def test_a_hiccup_is_asked_again_by_the_worker(airflow: MemoryAirflow, ledger: Ledger) -> None:
    operators.TellTrigger.asked = 0
    assert told(ledger, walk(kept("second time")), 1) == {}


def test_many_outcomes_are_several_xcoms(
    airflow: MemoryAirflow, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "BYTES_AT_ONCE", 1000)
    event = walk(*(kept("event", "x" * 300) for _ in range(5)))
    assert event["chunks"] == 5
    assert len(told(ledger, event, 5, largest=10)) == 5, "too large to be written down, but known here"
    assert ledger.written == 5, "of those that wait, and none of their outcomes"


def test_an_event_that_nothing_can_write(airflow: MemoryAirflow, ledger: Ledger) -> None:
    outcome = items._seal({"event": object()})
    reason, [line] = unseal(outcome)["failed"]
    assert reason == TRIGGER_FAILURE
    assert "its event cannot be kept" in line


def test_a_triggerer_that_cannot_says_why(airflow: MemoryAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deferred_expand.triggers.calls.IMPORT_PAUSES", ())
    elsewhere = Hop(("no.such.Trigger", {}), "take", {})
    state = {"hop": elsewhere.to_cursor(), "pushed": {}, "events": []}
    event = walk({"hop": seal(state), "until": None, "ends": None})
    assert "No module named 'no'" in event["not_here"]
    event = walk({"hop": "sealed with another key", "until": None, "ends": None})
    assert "sealed with another key" in event["not_here"]


def test_what_is_kept_of_an_item() -> None:
    asks = context()
    asks["ti"].pushed["part"] = (1, 2)
    wait = ItemWait(asks, 1_900_000_000.0, None)
    first = wait.keep(hop("event"))
    assert first is not None
    assert first == wait.keep(hop("event")), "an operator that asks again is not written down again"
    assert first != wait.keep(hop("twice"))
    assert first["ends"] == 1_900_000_000.0
    goes_on = context()
    found, outcome = ItemWait(goes_on, None, None).restore(first)
    assert (found, outcome) == (hop("event"), None)
    assert goes_on["ti"].pushed == {"part": (1, 2)}


def test_what_cannot_be_kept_is_waited_for_here() -> None:
    assert ItemWait(context(), None, None).keep(hop("event", object())) is None
    assert ItemWait(context(), None, 100).keep(hop("event")) is None, "too large"


def test_the_time_of_a_hop_goes_on() -> None:
    found, _ = ItemWait(context(), None, None).restore(kept("event", timeout=50.0))
    assert found.timeout is not None
    assert 40 < found.timeout <= 50
    late = {**kept("event", timeout=50.0), "until": time.time() - 1}
    assert ItemWait(context(), None, None).restore(late)[0].timeout == 0
