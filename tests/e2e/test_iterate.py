"""Many items in one task instance, of a whole Airflow."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.runs import Run
from tests.e2e.told import Told, start

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.paged_api import PagedApi

pytestmark = [
    pytest.mark.parametrize("airflow", ["expander"], indirect=True),
    pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store"),
]


def state_store(run: Run, key: str, method: str = "GET", **body: Any) -> Any:
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/items/state-store/{key}"
    return run.airflow.api(method, path, params={"map_index": 0}, **({"json": body} if body else {}))


def test_all_that_can_be_iterated(airflow: LocalAirflow) -> None:
    airflow.wait_for_dag("iterated_in_all_ways")
    run = Run(airflow, "iterated_in_all_ways", airflow.trigger("iterated_in_all_ways"))
    assert run.wait() == "success"
    values = range(25)
    assert run.result() == {
        "doubled": [2 * value for value in values if value != 3],
        "squares": [value * value for value in values if value != 3],
        "products": [10 * value + other for value in range(1, 26) for other in (0, 1)],
        "sums": [3, 7],
        "hops": [10 * value for value in values],
        "zipped": [100 + 2 * value for value in values],
    }
    assert run.states("hops") == ["success", "success"]
    asked = re.findall(rf"/xcoms/{run.dag_id}/[^ ]+/hundred/", airflow.output("api-server").read_text())
    assert len(asked) <= 1 + 4, "written once, and read once but by items that begin together"
    log = run.log("doubled", 0)
    assert "[item 7] the value is 7" in log
    (label,) = [instance["rendered_map_index"] for instance in run.instances("doubled")]
    assert label == "24 of 25 items done, 1 skipped"
    events = airflow.api("GET", "/assets/events", params={"source_dag_id": run.dag_id})["asset_events"]
    assert events[0]["extra"] == {f"item {value}": value for value in values if value != 3}


@pytest.mark.parametrize(
    "kind", ["sync", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("async", "deferrable"))]
)
def test_a_killed_worker_costs_what_was_in_flight_and_the_last_checkpoint(
    airflow: LocalAirflow, tmp_path: Path, kind: str
) -> None:
    run, told = start(airflow, f"iterated_{kind}", tmp_path, items=40, takes=0.4)
    wait_until("some have ended", lambda: len(told.ended()) >= 20, 120)
    os.kill(told.process(), signal.SIGKILL)
    killed_at = max(at for times in told.notes()["end"].values() for at in times)
    before = told.notes()["end"]
    assert run.wait() == "success"
    assert run.result() == [10 * index for index in range(40)]
    twice = {index for index, count in told.ended().items() if count > 1}
    assert {count for count in told.ended().values()} <= {1, 2}
    assert all(before[index][0] > killed_at - 1.5 for index in twice), "of the last checkpoint"
    assert run.instances("items")[0]["try_number"] == 2


@pytest.mark.long
def test_what_failed_is_tried_again_and_nothing_else(airflow: LocalAirflow, tmp_path: Path) -> None:
    for index in (3, 4):
        told = Told(tmp_path)
        told.tell("fail", index)
    run, told = start(airflow, "iterated_sync", tmp_path, items=8, takes=0.1)
    wait_until("there was a try", lambda: run.instances("items")[0]["try_number"] > 1, 120)
    told.take_back("fail", 3)
    told.take_back("fail", 4)
    assert run.wait() == "success"
    assert told.ended() == dict.fromkeys(range(8), 1)
    log = run.log("items", 0)
    assert "Item 3 of task 'items' failed" in log
    assert "failed: item 3 (ValueError: as told)" in log
    assert "more items failed than tolerate=0 allows" in log
    run.clear("items", include_downstream=True)
    assert run.wait() == "success"
    assert told.ended() == dict.fromkeys(range(8), 2), "after success all run again"
    token = airflow.api_token()
    command = ("items", "forget", run.dag_id, run.run_id, "items")
    with pytest.raises(RuntimeError, match="Say which items to forget"):
        airflow.run(*command, "--api-token", token)
    assert "1 item(s), and those that failed run again" in airflow.run(*command, "5", "--api-token", token)
    run.clear("items", include_downstream=True)
    assert run.wait() == "success"
    assert told.ended() == {**dict.fromkeys(range(8), 2), 5: 3}
    assert run.result() == [10 * index for index in range(8)]


def test_a_few_that_fail_are_tolerated_and_too_many_end_the_try(
    airflow: LocalAirflow, tmp_path: Path
) -> None:
    told = Told(tmp_path)
    told.tell("fail", 1)
    told.tell("give up", 2)
    run, told = start(airflow, "iterated_tolerant", tmp_path, items=10, takes=0.1)
    assert run.wait() == "success"
    assert run.result() == [0, *(10 * index for index in range(3, 10))]
    assert run.instances("items")[0]["try_number"] == 3, "the last one tolerates what can be tried again"
    assert len(told.notes()["begin"][1]) == 3
    assert len(told.notes()["begin"][2]) == 1, "for good"
    failures = state_store(run, "deferred_expand.failures")["value"]
    assert [index for index, _ in failures] == [1, 2]

    told.tell("fail", 9)
    run.clear("items", include_downstream=True)
    assert run.wait() == "failed"
    assert "3 failed" in run.instances("items")[0]["rendered_map_index"]
    told.take_back("fail", 9)
    state_store(run, "deferred_expand.limits", "PATCH", value={"concurrency": 1, "tolerate": "30%"})
    run.clear("items", include_downstream=True)
    assert run.wait() == "success"
    assert told.ended() == {0: 2, **dict.fromkeys(range(3, 9), 2), 9: 2}


def test_a_person_stops_it_and_lets_it_go_on(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, told = start(airflow, "iterated_async", tmp_path, items=60, takes=1.0)
    wait_until("some have ended", lambda: len(told.ended()) >= 4, 120)
    limits = state_store(run, "deferred_expand.limits")["value"]
    assert limits == {"concurrency": 4, "tolerate": 0, "stop": False}
    state_store(run, "deferred_expand.limits", "PATCH", value={**limits, "stop": True})
    assert run.wait() == "failed"
    assert run.instances("items")[0]["try_number"] == 1, "no other try"
    assert "a person has stopped it" in run.log("items", 0)
    assert len(told.ended()) < 40
    state_store(run, "deferred_expand.limits", "PATCH", value={"concurrency": 60})
    run.clear("items", include_downstream=True)
    assert run.wait() == "success"
    assert told.ended() == dict.fromkeys(range(60), 1)
    assert run.result() == [10 * index for index in range(60)]


def test_a_person_marks_it_failed(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, told = start(airflow, "iterated_killed", tmp_path, items=10)
    wait_until("three run", lambda: len(told.notes()["begin"]) == 3, 120)
    run.mark("items", "failed", 0)
    wait_until("each was told", lambda: len(told.notes()["killed"]) == 3, 60)
    assert run.wait() == "failed"
    assert set(told.notes()["begin"]) == {0, 1, 2}, "no other began"


def test_each_item_has_its_time(airflow: LocalAirflow) -> None:
    airflow.wait_for_dag("iterated_late")
    run = Run(airflow, "iterated_late", airflow.trigger("iterated_late"))
    assert run.wait() == "success"
    assert run.result() == ["is fine", "is fine, too"]
    assert run.result("others") == ["is fine"]
    log = run.log("late", 0)
    assert log.count("it took longer than its execution_timeout, 1 s") >= 3
    assert "A call blocks, and does not see that its time is over; it is left behind" in log


@pytest.mark.long
def test_an_instance_has_its_time(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, told = start(airflow, "iterated_too_long", tmp_path, items=4)
    assert run.wait() == "failed"
    assert run.states("items") == run.states("hops") == ["failed"]
    assert set(told.notes()["killed"]) == {0, 1}
    assert "instance_timeout is 0:00:03" in run.log("items", 0)
    hops = run.instances("hops")[0]
    assert "waiting" in hops["rendered_map_index"], "it was deferred meanwhile"
    assert "instance_timeout is 0:00:12" in run.log("hops", 0)
    assert 12 <= hops["duration"] < 40


@pytest.mark.long
def test_an_instance_whose_items_all_wait_frees_its_slot(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, told = start(airflow, "iterated_waits", tmp_path, items=5, takes=14)
    wait_until("it is deferred", lambda: run.states("items") == ["deferred"], 120)
    assert run.instances("items")[0]["rendered_map_index"] == "0 of 5 items done, 3 waiting"
    assert run.wait() == "success"
    assert run.result() == [10 * index for index in range(5)]
    notes = told.notes()
    assert {index: len(times) for index, times in notes["begin"].items()} == dict.fromkeys(range(5), 1)
    assert told.ended() == dict.fromkeys(range(5), 1)
    instance = run.instances("items")[0]
    assert instance["try_number"] == 1
    keys = run.xcom_keys("items", 0)
    assert [key for key in keys if key.startswith("deferred_expand.results")]
    assert not [key for key in keys if key.startswith("deferred_expand.waited")]


@pytest.mark.long
def test_a_person_stops_it_while_its_items_wait(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, told = start(airflow, "iterated_waits", tmp_path, items=5, takes=60)
    wait_until("it is deferred", lambda: run.states("items") == ["deferred"], 120)
    state_store(run, "deferred_expand.limits", "PATCH", value={"concurrency": 3, "stop": True})
    assert run.wait() == "failed"
    assert "a person has stopped it" in run.log("items", 0)
    assert told.ended() == dict.fromkeys(range(3), 1), "those that waited ended, and no other began"
    state_store(run, "deferred_expand.limits", "PATCH", value={"concurrency": 3})
    run.clear("items", include_downstream=True)
    wait_until("it is deferred", lambda: run.states("items") == ["deferred"], 120)
    airflow.kill("triggerer")
    airflow.start_component("triggerer")
    assert run.wait() == "success"
    assert told.ended() == dict.fromkeys(range(5), 1)
    assert {len(times) for times in told.notes()["begin"].values()} == {1}


def test_the_example(airflow: LocalAirflow, api: PagedApi) -> None:
    api.fail("example_iterate", cursor=4, times=1)
    airflow.wait_for_dag("example_iterate")
    run_id = airflow.trigger("example_iterate", {"url": api.url("example_iterate")})
    run = Run(airflow, "example_iterate", run_id)
    assert run.wait() == "success"
    assert sorted(api.cursors("example_iterate")) == sorted([*range(20), 4]), "a hiccup is asked again"
    assert run.instances("fetch")[0]["try_number"] == 1
