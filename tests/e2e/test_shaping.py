"""Shaped, combined, shared and read streams, loops and stopping, on a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.runs import Run

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.paged_api import PagedApi

Runs = dict[str, Run]

pytestmark = pytest.mark.parametrize(
    "airflow", ["expander", pytest.param("callback", marks=pytest.mark.long)], indirect=True
)


def values(run: Run, task_id: str) -> list[Any]:
    """What the instances of a mapped task have echoed, by map index, without the head's."""
    indexes = [ti["map_index"] for ti in run.instances(task_id)]
    return [run.airflow.xcom(run.dag_id, run.run_id, task_id, index)["value"] for index in indexes[1:]]


def test_items_are_filtered_mapped_and_flat_mapped(shaping_runs: Runs) -> None:
    run = shaping_runs["shaped"]
    assert run.wait() == "success"
    assert run.result() == ["0A", "0B", "2A", "2B", "4A", "4B"]
    assert run.states("echo") == ["success"] * 7, "what is dropped costs no instance"


def test_a_stream_whose_items_are_all_dropped_is_skipped(shaping_runs: Runs) -> None:
    run = shaping_runs["nothing_left"]
    assert run.wait() == "success"
    assert run.states("echo") == ["skipped"]


def test_a_map_that_skips_skips_the_items_instance(shaping_runs: Runs) -> None:
    run = shaping_runs["skips_one"]
    run.wait()
    assert run.states("echo") == ["success", "success", "success", "skipped", "success"]
    assert "two is not wanted" in run.log("echo", 3)


def test_several_tasks_over_one_stream(shaping_runs: Runs, api: PagedApi) -> None:
    run = shaping_runs["shared"]
    assert run.wait() == "success"
    assert values(run, "echo") == [0, 1, 2]
    assert values(run, "even") == [0, 2]
    assert values(run, "pair") == [[0, 0], [1, 10], [2, -1]]
    assert values(run, "all") == [0, 1, 2, 0, 10]
    assert run.walked_once(api.cursors("shared")) == [0, 1, 2], "one walk for all of them"


def test_a_task_reads_a_stream(shaping_runs: Runs) -> None:
    run = shaping_runs["shared"]
    run.wait()
    everything = [0, 1, 2]
    assert run.result("summarize") == [everything, everything, [0, 2], 3, 2]


def test_a_stream_that_is_only_read(shaping_runs: Runs) -> None:
    run = shaping_runs["only_read"]
    assert run.wait() == "success"
    assert run.result("add_up") == 15


def test_a_failed_parent_fails_its_children(shaping_runs: Runs) -> None:
    run = shaping_runs["parent_fails"]
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed", "success", "success"]
    assert run.states("tens") == ["failed", "success", "success"]
    assert "the stream of task 'broken' has ended as failed after 2 item(s)" in run.log("tens", 0)


def test_a_loop_ends_when_the_answer_is_good_enough(shaping_runs: Runs) -> None:
    run = shaping_runs["search"]
    assert run.wait() == "success"
    assert run.result() == list(range(9)), "three at a time, until one of them is at least 6"


@pytest.mark.parametrize(
    "how",
    [
        "run failed",
        pytest.param("run succeeded", marks=pytest.mark.long),
        pytest.param("head failed", marks=pytest.mark.long),
        pytest.param("head succeeded", marks=pytest.mark.long),
    ],
)
def test_nobody_wants_it_any_more(airflow: LocalAirflow, tmp_path: Path, how: str) -> None:
    airflow.wait_for_dag("endless")
    notes = tmp_path / "source"
    run = Run(airflow, "endless", airflow.trigger("endless", {"notes": str(notes)}))
    # A mark that meets a worker's own report of the head's state may be overwritten, as natively.
    wait_until("the first item ran", lambda: run.states("echo") == ["deferred", "success"], 90)
    path = f"/dags/endless/dagRuns/{run.run_id}"
    state = "failed" if how.endswith("failed") else "success"
    if how.startswith("run"):
        airflow.api("PATCH", path, json={"state": state})
    else:
        run.mark("echo", state, 0)
    # A trigger is cancelled with its triggerer's next round; the walk looks every 2 seconds.
    wait_until("the source is closed", notes.with_suffix(".closed").exists, 5)
    given = notes.with_suffix(".open").read_text()
    assert run.wait() == state
    assert notes.with_suffix(".open").read_text() == given
