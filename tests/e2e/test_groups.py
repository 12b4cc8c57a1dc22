"""Task groups over streams where no run can be locked: Airflow expands them when the stream has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import Cluster, start
from tests.e2e.runs import Run

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.paged_api import PagedApi

EITHER = pytest.mark.parametrize(
    "airflow", ["expander", pytest.param("callback", marks=pytest.mark.long)], indirect=True
)
TOLD = "has not grown with the stream: Airflow expands it now"


def told(count: int) -> list[list[int]]:
    """What the chain makes of so many."""
    return [[3 * n, 2 * n, 3 * n] for n in range(count)]


@pytest.fixture
def without_locks(airflow: LocalAirflow) -> None:
    if isinstance(airflow, Cluster) and airflow.env["AIRFLOW__DEFERRED_EXPAND__EXPANDER"] == "True":
        pytest.skip("its database locks runs, so that groups grow: on_postgres/test_groups.py")


@pytest.mark.usefixtures("without_locks")
@EITHER
def test_it_is_expanded_when_the_stream_has_ended(airflow: LocalAirflow, tmp_path: Path) -> None:
    """However many are given: ``max_pending`` would wait for what does not run."""
    run, gates = start(airflow, "grows_pending", tmp_path)
    gates.open(6)
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == told(8)
    assert run.states("users.stream") == ["success"]
    assert TOLD in run.log("users")


@EITHER
def test_a_stream_with_no_items(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "grows", tmp_path)
    gates.end()
    assert run.wait() == "success"
    assert run.states("users.stream") == ["skipped"]
    assert run.states("chain.tell") == ["skipped"]


@pytest.mark.long
@pytest.mark.parametrize("airflow", ["expander"], indirect=True)
def test_marked_as_done_before_it_has_a_length_the_head_says_what_to_clear(
    airflow: LocalAirflow, tmp_path: Path
) -> None:
    run, gates = start(airflow, "grows", tmp_path)
    gates.open(2)
    wait_until("the stream is open", lambda: run.states("users") == ["deferred"], 60)
    run.mark("users", "success")
    gates.end()
    assert run.wait() == "failed"
    assert run.states("users.stream") == ["failed"]
    assert "Clear 'users' with its downstream" in run.log("users.stream")
    run.clear("users", include_downstream=True)
    assert run.wait() == "success"
    assert run.result() == told(2)


@pytest.mark.usefixtures("without_locks")
@EITHER
def test_a_source_that_waits_for_results_says_what_it_needs(airflow: LocalAirflow) -> None:
    airflow.wait_for_dag("grows_in_a_loop")
    run = Run(airflow, "grows_in_a_loop", airflow.trigger("grows_in_a_loop", {}))
    assert run.wait() == "failed"
    assert run.states("users") == ["failed"]
    assert "none of task group 'chain' runs before the stream has ended" in run.log("users")


@pytest.mark.long
@EITHER
def test_it_is_cleared_with_its_stream(airflow: LocalAirflow, tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("3")
    airflow.wait_for_dag("grows_as_many")
    run = Run(airflow, "grows_as_many", airflow.trigger("grows_as_many", {"count": str(count)}))
    assert run.wait() == "success"
    run.clear(["chain.add", 1], include_downstream=True)
    assert run.wait() == "success"
    count.write_text("2")
    run.clear("users", include_downstream=True)
    run.wait()
    assert run.states("chain.tell") == ["success", "success", "removed"]


@EITHER
def test_the_example(airflow: LocalAirflow, api: PagedApi) -> None:
    airflow.wait_for_dag("example_task_group")
    run_id = airflow.trigger("example_task_group", {"url": api.url("example_task_group")})
    run = Run(airflow, "example_task_group", run_id)
    assert run.wait() == "success"
    assert run.result("report") == 6
