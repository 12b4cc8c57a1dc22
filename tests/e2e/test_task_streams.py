"""Sources of DAG files, on a real Airflow: walked by the triggerer, in a process of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deferred_expand.airflow_internals.state_store import has_state_store
from tests.e2e.cluster import start
from tests.e2e.repository import DAG_ID
from tests.e2e.test_shaping import values

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.e2e.runs import Run

    Runs = dict[str, Run]

pytestmark = pytest.mark.parametrize(
    "airflow", ["expander", pytest.param("callback", marks=pytest.mark.long)], indirect=True
)


def test_a_source_within_a_function_with_a_lambda_and_a_module_beside(task_runs: Runs) -> None:
    run = task_runs["in_the_dag_file"]
    assert run.wait() == "success"
    assert run.result() == [1, -1, 2, -2, 4, -4, 5, -5]


def test_a_source_has_the_context_of_its_task(airflow: LocalAirflow, task_runs: Runs) -> None:
    run = task_runs["context_of_a_source"]
    assert run.wait() == "success"
    assert run.result() == [
        ["all", "seen", True, "all", True], "all", "seen", "blue", "blue", "a", "manual",
    ]  # fmt: skip
    if airflow.env["AIRFLOW__DEFERRED_EXPAND__EXPANDER"] == "True":  # else the next trigger's log replaces it
        assert "printed by the source" in run.log("seen")


def test_conditions_are_the_unmapped_tasks(task_runs: Runs) -> None:
    run = task_runs["with_conditions"]
    assert run.wait() == "success"
    assert run.states("echo_one") == ["success", "success"]
    assert run.states("other") == ["skipped"]
    assert run.states("echo_other") == ["skipped"]


def test_a_crash_of_the_process_is_the_heads_error(task_runs: Runs) -> None:
    run = task_runs["crashes_in_its_process"]
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed", "success"], "what was given before is committed"
    log = run.log("echo", 0)
    assert "exit code 7" in log
    assert "os._exit" in log


def test_results_of_items_reach_a_source_of_the_dag_file(task_runs: Runs) -> None:
    run = task_runs["results_in_the_dag_file"]
    assert run.wait() == "success"
    assert values(run, "echo") == [1, 2, 3, 4]


def test_a_function_of_the_dag_file_shapes_an_importable_source(task_runs: Runs) -> None:
    run = task_runs["lambda_of_an_importable_source"]
    assert run.wait() == "success"
    assert run.result() == ["N0", "N1", "N2", "N3"]


def test_a_source_of_a_git_bundle(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, DAG_ID, tmp_path)
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == ["one 0", "one 1"]


@pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store")
def test_an_instance_runs_a_batch_of_a_stream(task_runs: Runs) -> None:
    run = task_runs["iterated_stream"]
    assert run.wait() == "success"
    numbers = [number for number in range(30) if number % 10]
    instances = run.instances("tripled")
    given = run.result()
    assert given["tripled"] == [3 * number for number in numbers if number != 6]
    places = [tuple(place) for place in given["places"]]
    assert places == sorted(places), "in the order of the stream"
    assert len({map_index for map_index, _ in places}) == len(instances) - 1
    assert 27 / 4 <= len(instances) - 1 <= 12, "batches of 4 at most, fewer instances than items"
    assert instances[1]["rendered_map_index"].endswith("items done")
    assert run.result("seen") == 27
