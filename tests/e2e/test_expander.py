"""What only the expander does."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, text

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import launches, start, wait_for_successes
from tests.e2e.gates import Gates
from tests.e2e.runs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.e2e.runs import Run

pytestmark = pytest.mark.parametrize("airflow", ["expander"], indirect=True)

Row = dict[str, Any]


def rows(airflow: LocalAirflow, run: Run, task_id: str) -> list[Row]:
    """Task instances as they are in the database, by map index."""
    query = text("select * from task_instance where run_id = :run and task_id = :task order by map_index")
    engine = create_engine(airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], poolclass=NullPool)
    with engine.connect() as database:
        found = database.execute(query, {"run": run.run_id, "task": task_id}).mappings()
        return [dict(row) for row in found]


def test_an_open_stream_occupies_no_worker_and_its_head_ends_without_one(
    airflow: LocalAirflow, tmp_path: Path
) -> None:
    run, gates = start(airflow, "gated_auto", tmp_path)
    gates.open(1)
    wait_until("the first item ran", lambda: run.states("echo").count("success") == 1, 90)
    gates.open(2)
    wait_until("the others ran", lambda: run.states("echo").count("success") == 3, 60)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2]
    head = run.instances("echo")[0]
    started = re.findall(rf"task-instances/{head['id']}/run", airflow.output("api-server").read_text())
    assert len(started) == 1, "a worker has started the head once, and never resumed it"
    assert head["rendered_map_index"] == "stream ended: 3 items in 2 batches"


def test_a_worker_commits_what_the_expander_cannot(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "gated_auto", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    assert launches(airflow, run) == 1
    fails = airflow.home / "policy_fails"
    fails.touch()
    try:
        gates.open(3)
        wait_until("a worker is asked", lambda: run.states("echo")[0] != "deferred", 15)
        wait_for_successes(run, 5)
    finally:
        fails.unlink()
    assert launches(airflow, run) > 1
    said = "".join(airflow.output(name).read_text() for name in airflow.processes if "triggerer" in name)
    assert said.count("The expander cannot commit batches of task 'echo' of DAG 'gated_auto'") == 1
    gates.open(1)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == list(range(6))
    assert run.states("echo") == ["success"] * 7


def test_instances_are_what_the_scheduler_makes(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "compared", tmp_path)
    gates.open(2)
    gates.open(3)
    native_and_streamed = [
        wait_until(f"{task_id} is scheduled", partial(all_scheduled, airflow, run, task_id), 90)
        for task_id in ("native", "streamed")
    ]
    airflow.api("PATCH", f"/dags/compared/dagRuns/{run.run_id}", json={"state": "failed"})
    differing = {"id", "task_id", "task_display_name", "updated_at", "scheduled_dttm", "context_carrier"}
    for native, streamed in zip(*native_and_streamed, strict=True):
        assert native.keys() == streamed.keys()
        different = {name for name in native if native[name] != streamed[name]}
        assert different <= differing, {name: (native[name], streamed[name]) for name in different}
        assert trace(native) == trace(streamed), "both belong to the run's trace"
        assert streamed["pool_slots"] == 1 + streamed["map_index"], "the mutation hook was asked"


def all_scheduled(airflow: LocalAirflow, run: Run, task_id: str) -> list[Row] | None:
    """The five with map indexes above 0, once the scheduler has looked at them."""
    instances = rows(airflow, run, task_id)
    return instances[1:] if [row["state"] for row in instances[1:]] == ["scheduled"] * 5 else None


def trace(row: Row) -> str:
    """The trace's id within a context carrier."""
    found = re.search(r"00-([0-9a-f]{32})-", str(row["context_carrier"]))
    assert found, row["context_carrier"]
    return found[1]


@pytest.mark.parametrize(
    "committed_meanwhile",
    [
        pytest.param(["3"], id="in the middle of the stream", marks=pytest.mark.long),
        pytest.param(["3", "0"], id="at its end"),
    ],
)
def test_items_that_the_scheduler_took_for_surplus_come_back(
    airflow: LocalAirflow, tmp_path: Path, committed_meanwhile: list[str]
) -> None:
    run, gates = start(airflow, "gated_triggerer", tmp_path)
    gates.open(2)
    wait_until("the first items ran", lambda: run.states("echo").count("success") == 2, 90)
    script = [sys.executable, "-m", "tests.e2e.forced_revision"]
    forced = subprocess.run(
        [*script, run.dag_id, run.run_id, str(tmp_path), "1", *committed_meanwhile],
        env=airflow.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert forced.stdout.endswith("removed: 3\n"), forced.stderr
    Gates(tmp_path, 1 + len(committed_meanwhile)).end()
    assert run.wait() == "success"
    assert run.result() == list(range(5))
    assert run.states("echo") == ["success"] * 6
