"""Windows of a stream, each of which another DAG works on in a run of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.gates import Gates
from tests.e2e.runs import Run

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.paged_api import PagedApi

CHILD = "work_on_window"
EITHER = pytest.mark.parametrize(
    "airflow", ["expander", pytest.param("callback", marks=pytest.mark.long)], indirect=True
)
EXPANDER = pytest.mark.parametrize("airflow", ["expander"], indirect=True)


class Windowed(Run):
    """A run of a DAG of ``dags/windows.py``."""

    child_dag: str = CHILD

    def children(self) -> list[Run]:
        """In the order of the windows."""
        found = self.airflow.api("GET", f"/dags/{self.child_dag}/dagRuns", params={"limit": 100})["dag_runs"]
        mine = [run for run in found if run["dag_run_id"].startswith(f"{self.dag_id}.{self.run_id}.")]
        numbered = {int(run["dag_run_id"].rpartition(".")[2]): run["dag_run_id"] for run in mine}
        return [Run(self.airflow, self.child_dag, numbered[number]) for number in sorted(numbered)]

    def wait_for_children(self, count: int) -> list[Run]:
        return wait_until(
            f"{count} windows have runs",
            lambda: found if len(found := self.children()) >= count else None,
            120,
        )

    @property
    def labels(self) -> list[str]:
        return [str(instance["rendered_map_index"]) for instance in self.instances("load")[1:]]


def start(airflow: LocalAirflow, dag_id: str, folder: Path, child: str = CHILD) -> tuple[Windowed, Gates]:
    for name in (dag_id, child):
        airflow.wait_for_dag(name)
    run_id = airflow.trigger(dag_id, {"gates": str(folder), "folder": str(folder)})
    run = Windowed(airflow, dag_id, run_id)
    run.child_dag = child
    return run, Gates(folder)


def doubled(folder: Path) -> list[int]:
    """Rows in the order in which tasks of the runs have doubled them."""
    path = folder / "notes"
    return [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.long
@EITHER
def test_each_window_has_a_run_of_its_own(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "windowed", tmp_path)
    gates.open(7)
    (first,) = run.wait_for_children(1)
    assert first.wait() == "success", "before the stream has ended"
    assert first.result("total") == [5, sum(range(5)), 2 * sum(range(5))]
    assert first.states("steps.twice") == ["success"] * 5
    assert len(run.children()) == 1, "a window is a run when it is full"
    gates.open(6)
    gates.end()
    assert run.wait() == "success"
    results = [child.result("total") for child in run.children()]
    rows = [range(5), range(5, 10), range(10, 13)]
    assert results == [[len(of_one), sum(of_one), 2 * sum(of_one)] for of_one in rows]
    assert sorted(doubled(tmp_path)) == list(range(13))
    assert run.labels == ["window 1", "window 2", "window 3"]
    assert run.result("report") == [
        [*(2 * row for row in of_one), child.run_id]
        for of_one, child in zip(rows, run.children(), strict=True)
    ]


@pytest.mark.long
@EITHER
def test_a_source_goes_on_with_the_results_of_its_windows(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, _ = start(airflow, "windows_in_a_loop", tmp_path)
    assert run.wait() == "success"
    assert sorted(doubled(tmp_path)) == [1, 2, 6, 7, 26, 27], "1 + 2 doubled are 6, and 6 + 7 are 26"


@pytest.mark.long
@EITHER
def test_links_lead_there_and_back(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "windowed", tmp_path)
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    (child,) = run.children()
    path = "/dags/{}/dagRuns/{}/taskInstances/{}/links"
    there = airflow.api("GET", path.format(run.dag_id, run.run_id, "load"), params={"map_index": 1})
    back = airflow.api("GET", path.format(child.dag_id, child.run_id, "rows"))
    assert f"/dags/{CHILD}/runs/" in there["extra_links"]["Run of the window"]
    assert f"/dags/{run.dag_id}/runs/" in back["extra_links"]["Stream of the window"]


@pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store")
@pytest.mark.long
@EITHER
def test_a_window_closes_when_its_time_is_over(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "windowed_by_time", tmp_path, "iterate_over_window")
    gates.open(3)
    (first,) = run.wait_for_children(1)
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    assert [child.instances("double")[0]["rendered_map_index"] for child in run.children()] == [
        "3 of 3 items done", "2 of 2 items done",
    ]  # fmt: skip
    assert first.run_id == run.children()[0].run_id


@pytest.mark.long
@EITHER
def test_what_cannot_be_waited_for_is_named(airflow: LocalAirflow, tmp_path: Path) -> None:
    for dag_id in ("windowed_paused", "windowed_missing"):
        (tmp_path / dag_id).mkdir()
    missing, gates = start(airflow, "windowed_missing", tmp_path / "windowed_missing")
    gates.open(1)
    gates.end()
    assert missing.wait() == "failed"
    assert "cannot be started for window 1 of the stream of task 'rows'" in missing.log("load", 1)
    assert "Dag with dag_id: 'no_such_dag' not found" in missing.log("load", 1)


@EXPANDER
@pytest.mark.long
def test_a_paused_dag_is_named(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "windowed_paused", tmp_path, "paused_window")
    gates.open(1)
    gates.end()
    wait_until("it is named", lambda: run.labels == ["window 1: DAG 'paused_window' is paused"], 60)
    airflow.api("PATCH", "/dags/paused_window", json={"is_paused": False})
    assert run.wait() == "success"
    assert run.labels == ["window 1"]
    airflow.api("PATCH", "/dags/paused_window", json={"is_paused": True})


@EXPANDER
def test_a_retry_attaches_and_a_clear_runs_what_it_should(airflow: LocalAirflow, tmp_path: Path) -> None:
    (tmp_path / "fail 3").touch()
    run, gates = start(airflow, "windowed_with_retries", tmp_path)
    gates.open(5)
    gates.end()
    wait_until("it is tried again", lambda: [i["try_number"] for i in run.instances("load")[1:]] == [2], 120)
    (child,) = run.children()
    (tmp_path / "fail 3").unlink()
    assert run.wait() == "success"
    assert [one.run_id for one in run.children()] == [child.run_id], "never a second one"
    assert sorted(doubled(tmp_path)) == [0, 1, 2, 3, 4], "what had succeeded did not run again"

    run.clear(["load", 1])
    assert run.wait() == "success"
    assert sorted(doubled(tmp_path)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "after success all runs again"
    assert len(run.children()) == 1


@EXPANDER
@pytest.mark.long
def test_the_run_of_a_window_that_is_stopped_is_stopped(airflow: LocalAirflow, tmp_path: Path) -> None:
    for row in (0, 5):
        (tmp_path / f"wait {row}").touch()
    run, gates = start(airflow, "windowed", tmp_path)
    gates.open(10)
    gates.end()
    first, second = run.wait_for_children(2)
    wait_until("both wait", lambda: run.states("load")[1:] == ["deferred"] * 2, 120)
    run.mark("load", "failed", 1)
    run.mark("load", "success", 2)
    assert first.wait(60) == "failed"
    (tmp_path / "wait 5").unlink()
    assert second.wait(120) == "success", "who marks a window a success lets its run go on"
    (tmp_path / "wait 0").unlink()
    run.clear(["load", 1], include_downstream=True)
    assert run.wait() == "success"
    assert sorted(set(doubled(tmp_path))) == list(range(10))
    assert len(run.children()) == 2


@pytest.mark.long
@EITHER
def test_a_window_that_was_deleted_says_so(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "windowed", tmp_path)
    gates.open(3)
    gates.end()
    assert run.wait() == "success"
    (child,) = run.children()
    run.clear("rows", include_downstream=True)
    assert run.wait() == "success"
    other: Any = [one for one in run.children() if one.run_id != child.run_id]
    new = airflow.api("GET", f"/dags/{CHILD}/dagRuns", params={"limit": 100})["dag_runs"]
    assert len([one for one in new if one["dag_run_id"].startswith(f"windowed.{run.run_id}.")]) == 2, other
    child.clear("rows", include_downstream=True)
    assert child.wait() == "failed"
    assert "is gone: the stream was opened anew since" in child.log("rows", try_number=2)


@EITHER
def test_the_example(airflow: LocalAirflow, api: PagedApi) -> None:
    for dag_id in ("example_windows", "example_window_of_orders"):
        airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger("example_windows", {"url": api.url("example_windows")})
    run = Windowed(airflow, "example_windows", run_id)
    run.child_dag = "example_window_of_orders"
    assert run.wait() == "success"
    assert [child.result("report") for child in run.children()] == [
        {"orders": count, "shipped": count} for count in (4, 2)
    ]


@pytest.mark.long
@pytest.mark.parametrize("airflow", ["callback"], indirect=True)
def test_without_an_expander_nothing_is_cleared_and_it_says_so(airflow: LocalAirflow, tmp_path: Path) -> None:
    (tmp_path / "fail 3").touch()
    run, gates = start(airflow, "windowed", tmp_path)
    gates.open(5)
    gates.end()
    assert run.wait() == "failed"
    run.clear(["load", 1], include_downstream=True)
    assert run.wait() == "failed"
    (child,) = run.children()
    log = run.log("load", 1, 2)
    assert f"run {child.run_id!r} of DAG 'work_on_window'" in log.replace('\\\\"', "'")
    assert "no expander answers in this triggerer" in log
    assert child.states("double").count("failed") == 1, "it is left as it is"
    (tmp_path / "fail 3").unlink()
    child.clear("double", only_failed=True, include_downstream=True)
    assert child.wait() == "success"
    run.clear(["load", 1], include_downstream=True)
    assert run.wait() == "success"
