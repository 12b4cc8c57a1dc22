"""A stream that never ends, run after run of its DAG."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.gates import Gates
from tests.e2e.test_windows import doubled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow

PAGE = 4
RUNS = "/dags/endless_windows/dagRuns"

pytestmark = pytest.mark.long


class Endless:
    """The DAG ``endless_windows``: two windows of five rows each run."""

    def __init__(self, airflow: LocalAirflow, folder: Path) -> None:
        self.airflow, self.folder = airflow, folder
        self.gates = Gates(folder)
        self.given = 0

    def pause(self, paused: bool) -> None:
        self.airflow.api("PATCH", "/dags/endless_windows", json={"is_paused": paused})

    def give(self, pages: int) -> None:
        for _ in range(pages):
            self.gates.open(PAGE)
        self.given += pages * PAGE

    def runs(self) -> list[dict[str, Any]]:
        """The last one first."""
        asked = {"order_by": "-logical_date", "limit": 100}
        found: list[dict[str, Any]] = self.airflow.api("GET", RUNS, params=asked)["dag_runs"]
        return found

    def wait_for_rows(self, count: int) -> None:
        wait_until(f"{count} rows are doubled", lambda: len(set(doubled(self.folder))) >= count, 180)

    def active(self) -> str:
        def run() -> str | None:
            last = self.runs()[:1]
            return last[0]["dag_run_id"] if last and last[0]["state"] == "running" else None

        return wait_until("a run is active", run, 60)

    def set_head(self, run_id: str, state: str) -> None:
        path = f"{RUNS}/{run_id}/taskInstances/load/0"
        wait_until("its head waits", lambda: self.airflow.api("GET", path)["state"] == "deferred", 120)
        self.airflow.api("PATCH", path, json={"new_state": state})


@pytest.fixture
def endless(airflow: LocalAirflow, tmp_path: Path) -> Iterator[Endless]:
    for dag_id in ("endless_windows", "double_window"):
        airflow.wait_for_dag(dag_id)
    airflow.api("POST", "/variables", json={"key": "endless", "value": str(tmp_path)})
    endless = Endless(airflow, tmp_path)
    endless.pause(False)
    try:
        yield endless
    finally:
        endless.pause(True)
        for run in endless.runs():
            if run["state"] in ("running", "queued"):
                airflow.api("PATCH", f"{RUNS}/{run['dag_run_id']}", json={"state": "failed"})
            airflow.api("DELETE", f"{RUNS}/{run['dag_run_id']}")
        airflow.api("DELETE", "/variables/endless")


def test_no_window_is_lost_or_repeated_from_run_to_run(endless: Endless) -> None:
    endless.give(4)
    endless.wait_for_rows(15)
    assert len(endless.runs()) == 2, "two windows, and the third, which has the rest of a page"

    failed = endless.active()
    endless.give(1)  # 20 rows: the second run has its windows, the next one begins
    endless.wait_for_rows(20)
    endless.give(2)
    endless.wait_for_rows(25)
    third = wait_until("the third runs", lambda: run if (run := endless.active()) != failed else None, 60)
    endless.set_head(third, "failed")  # three rows of a window are staged
    wait_until("the fourth runs", lambda: endless.active() != third, 120)
    endless.airflow.kill("triggerer")
    endless.airflow.start_component("triggerer")
    endless.give(1)
    endless.wait_for_rows(30)

    fourth = endless.active()
    endless.airflow.api(
        "POST",
        "/dags/endless_windows/clearTaskInstances",
        json={"dry_run": False, "dag_run_id": third, "task_ids": [["load", 0]], "only_failed": False},
    )
    endless.give(2)
    endless.wait_for_rows(40)
    runs = {run["dag_run_id"]: run["state"] for run in endless.runs()}
    assert runs[fourth] == "success"
    counts = Counter(doubled(endless.folder))
    assert counts == dict.fromkeys(range(endless.given), 1)
    wait_until("what was cleared has ended", lambda: _state(endless, third) == "success", 120)
    assert Counter(doubled(endless.folder)) == counts, "it gave nothing more"


def _state(endless: Endless, run_id: str) -> str:
    return endless.airflow.run_state("endless_windows", run_id)


def test_a_run_that_was_deleted_never_was(endless: Endless) -> None:
    endless.give(8)
    endless.wait_for_rows(30)
    wait_until("the fourth run is there", lambda: len(endless.runs()) == 4, 120)
    endless.pause(True)
    fourth, third, *_ = [run["dag_run_id"] for run in endless.runs()]
    endless.airflow.api("PATCH", f"{RUNS}/{fourth}", json={"state": "failed"})
    for run_id in (fourth, third):
        endless.airflow.api("DELETE", f"{RUNS}/{run_id}")
    endless.pause(False)

    def counts() -> dict[int, int]:
        return Counter(doubled(endless.folder))

    wait_until("its rows are given again", lambda: {counts()[row] for row in range(20, 30)} == {2}, 180)
    assert {counts()[row] for row in range(20)} == {1}


def test_it_goes_on_where_it_was_when_its_dag_was_paused(endless: Endless) -> None:
    endless.give(2)
    endless.wait_for_rows(5)
    endless.pause(True)
    endless.give(2)
    endless.pause(False)
    endless.wait_for_rows(15)
    assert Counter(doubled(endless.folder)) == dict.fromkeys(range(15), 1)
