"""Cleared, limited, timed out and tried again: what people and Airflow do to a run with a stream."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow import __version__ as airflow_version
from packaging.version import Version

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import TRIGGERERS, start, wait_for_successes
from tests.e2e.runs import Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster
    from tests.e2e.gates import Gates


# To all_success, whatever is expanded over (airflow/ti_deps/deps/trigger_rule_dep.py subtracts them in 3.3).
REMOVED_ARE_FAILURES = Version(airflow_version) < Version("3.3")


def give(cluster: Cluster, dag_id: str, conf: dict[str, Any]) -> Run:
    cluster.wait_for_dag(dag_id)
    return Run(cluster, dag_id, cluster.trigger(dag_id, conf))


def tries(run: Run) -> list[int]:
    return [ti["try_number"] for ti in run.instances("echo")]


def head_state(run: Run) -> str:
    return run.states("echo")[0]


def has_items(run: Run, items: int) -> bool:
    return len(run.instances("echo")) == 1 + items


def is_labelled(run: Run, text: str) -> bool:
    return text in run.instances("echo")[0]["rendered_map_index"]


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("as_many") / "count"


@pytest.fixture(scope="module")
def as_many(cluster: Cluster, count: Path) -> Run:
    """A finished run of four items."""
    count.write_text("4")
    run = give(cluster, "as_many", {"count": str(count)})
    assert run.wait() == "success"
    return run


def test_clear_the_head_of_a_finished_stream(as_many: Run, count: Path) -> None:
    count.write_text("99")  # not asked: the stream is there
    as_many.clear(["echo", 0])
    assert as_many.wait() == "success"
    assert tries(as_many) == [2, 1, 1, 1, 1], "it is done at once"


def test_clear_the_whole_mapped_task(as_many: Run, count: Path) -> None:
    count.write_text("99")  # not asked: the stream is there
    as_many.clear("echo", include_downstream=True)
    assert as_many.wait() == "success"
    assert as_many.result() == [0, 1, 2, 3]
    assert tries(as_many) == [3, 2, 2, 2, 2]


def test_clear_the_unmapped_task_alone_then_an_item(as_many: Run, count: Path) -> None:
    count.write_text("4")
    as_many.clear("stream")
    assert as_many.wait() == "success"
    as_many.clear(["echo", 2])
    assert as_many.wait() == "success"
    assert tries(as_many) == [3, 2, 3, 2, 2], "the stream is there again, up to what there was"
    assert as_many.airflow.xcom("as_many", as_many.run_id, "echo", 2)["value"] == 1


@pytest.mark.parametrize("items", [6, *(pytest.param(fewer, marks=pytest.mark.long) for fewer in (2, 0)), 5])
def test_clear_with_downstream_when_the_new_stream_has_another_length(
    as_many: Run, count: Path, items: int
) -> None:
    """Longer, shorter, empty, and longer again than what became REMOVED."""
    before = len(as_many.instances("echo")) - 1
    count.write_text(str(items))
    as_many.clear("stream", include_downstream=True)
    head, surplus = ("success" if items else "skipped"), ["removed"] * (before - items)
    ends = "failed" if surplus and REMOVED_ARE_FAILURES else "success"
    assert as_many.wait() == ends
    assert as_many.states("echo") == [head, *["success"] * items, *surplus]
    if items and ends == "success":
        assert as_many.result() == list(range(items))


@pytest.mark.long
def test_an_item_whose_batch_is_gone_says_what_to_do(cluster: Cluster, as_many: Run, count: Path) -> None:
    count.write_text("-")  # the source breaks before its first item
    as_many.clear("stream")
    as_many.wait()
    assert as_many.states("stream") == ["failed"]
    as_many.mark("stream", "success")
    as_many.clear(["echo", 1])
    as_many.wait()
    item = as_many.instances("echo")[1]
    assert item["state"] == "failed"
    newest = item["try_number"]
    log = as_many.log("echo", 1, newest)
    assert "not (or no longer) item 1: it was opened anew since" in log
    assert "Clear the mapped task 'echo' as a whole" in log


def test_clear_while_the_stream_is_open(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "gated_auto", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    run.clear(["echo", 0])  # it goes on
    gates.open(2)
    wait_for_successes(run, 4)
    assert set(gates.asked) == {0, 1}
    run.clear(["echo", 2])  # an item, beside the open stream
    wait_until("it runs again", lambda: tries(run)[2] == 2, 60)
    gates.open(1)
    wait_for_successes(run, 5)
    run.clear("stream", include_downstream=True)  # everything, in the middle
    gates.end()
    assert run.wait() == "success"
    assert run.result() == list(range(5))
    assert run.states("echo") == ["success"] * 6


@pytest.mark.long
def test_what_follows_a_stream_follows_the_new_one_when_the_run_is_cleared(
    cluster: Cluster, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    count.write_text("3")
    run = give(cluster, "followed", {"count": str(count)})
    assert run.wait() == "success"
    assert run.result() == [0, 10, 20]
    count.write_text("5")
    run.clear("before", include_downstream=True)
    assert run.wait() == "success"
    assert run.result() == [0, 10, 20, 30, 40]
    assert run.states("tens") == ["success"] * 6


@pytest.mark.long
def test_clear_the_unmapped_task_alone_while_the_stream_is_open(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "gated_auto", tmp_path)
    gates.open(2)
    gates.open(2)
    wait_for_successes(run, 4)
    run.clear("stream")
    wait_until("it is walked again", lambda: gates.asked.count(0) > 1, 60)
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == list(range(6))
    assert run.states("echo") == ["success"] * 7
    assert tries(run)[1:] == [1] * 6, "no item ran again"


@pytest.mark.parametrize(
    ("dag_id", "weight"), [("gated_triggerer", 2), pytest.param("gated_callback", 3, marks=pytest.mark.long)]
)
def test_a_new_dag_version_in_the_middle_of_a_stream(
    cluster: Cluster, tmp_path: Path, dag_id: str, weight: int, versioned: Path
) -> None:
    run, gates = start(cluster, f"versioned_{dag_id}", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    path = f"/dags/{run.dag_id}/dagVersions"
    before = cluster.api("GET", path)["total_entries"]
    echo = re.compile(r'partial\(task_id="echo".*?\)')
    versioned.write_text(
        echo.sub(
            f'partial(task_id="echo", priority_weight={weight}, weight_rule="absolute")',
            versioned.read_text(),
        )
    )
    wait_until("there is a new version", lambda: cluster.api("GET", path)["total_entries"] > before, 60)
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2, 3]
    query = (
        "select priority_weight from task_instance where run_id = %s and task_id = 'echo' and map_index > 2"
    )
    assert {row[0] for row in cluster.ask(query, run.run_id)} == {weight}, "new items are of the new version"


@pytest.mark.parametrize(
    "retries", [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)]
)
def test_retries_of_the_head(cluster: Cluster, tmp_path: Path, retries: int) -> None:
    run = give(cluster, f"retries_{retries}", {"notes": str(tmp_path / "notes")})
    asked = retries + 1  # once in each try; the third time it answers
    while asked < 3:
        assert run.wait() == "failed"
        assert run.states("echo") == ["failed", "success", "success"]
        run.clear(["echo", 0], include_downstream=True)
        asked += retries + 1
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2]
    assert tries(run) == [3, 1, 1, 1], "no item ran again"


@pytest.mark.long
@pytest.mark.parametrize("dag_id", ["two_at_a_time", "one_slot"])
def test_limits_on_the_mapped_task_hold_for_the_items(cluster: Cluster, tmp_path: Path, dag_id: str) -> None:
    run, gates = start(cluster, dag_id, tmp_path)
    gates.open(3)
    wait_for_successes(run, 3)  # the deferred head leaves a place
    gates.end()
    assert run.wait() == "success"


@pytest.mark.long
def test_a_pool_that_counts_deferred_tasks_holds_the_items_until_the_stream_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    run, gates = start(cluster, "one_slot_deferred_counted", tmp_path)
    gates.open(2)
    wait_until("the items are there", lambda: len(run.instances("echo")) == 3, 60)
    head = run.instances("echo")[0]
    label = head["rendered_map_index"]
    assert label.startswith("stream open: 2 items in 1 batch, nothing since 20")
    assert label.endswith(
        "; no item can run: no slot in pool 'one_slot_deferred_counted': deferred tasks hold 1 of 1"
    )
    wait_until("the items wait", lambda: run.states("echo") == ["deferred", "scheduled", "scheduled"], 60)
    gates.end()
    assert run.wait() == "success"
    assert run.states("echo") == ["success"] * 3


@pytest.mark.long
def test_what_the_heads_of_several_runs_keep_from_running_is_on_their_labels(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The first one's is told although nothing of it is committed any more."""
    runs: list[tuple[Run, Gates]] = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        runs.append(start(cluster, "two_places", folder))
        (run, gates) = runs[-1]
        gates.open(1)
        wait_until("its item is there", partial(has_items, run, 1), 60)
        if name == "first":
            wait_for_successes(run, 1)
    (first, first_gates), (second, second_gates) = runs
    told = "; no item can run: max_active_tis_per_dag=2, and 2 runs hold their stream open"
    for run in (first, second):
        wait_until("it is told", partial(is_labelled, run, told), 60)
    first_gates.end()
    assert first.wait() == "success"
    wait_for_successes(second, 1)
    second_gates.end()
    assert second.wait() == "success"


@pytest.mark.long
def test_depends_on_past(cluster: Cluster, tmp_path: Path) -> None:
    runs: list[tuple[Run, Gates]] = []
    for day in (1, 2):
        folder = tmp_path / str(day)
        folder.mkdir()
        runs.append(start(cluster, "after_the_past", folder, logical_date=f"2026-02-0{day}T00:00:00Z"))
    (first, first_gates), (second, second_gates) = runs
    for gates in (first_gates, second_gates):
        gates.open(2)
    wait_for_successes(first, 2)
    wait_until("the second's stream is opened", lambda: second.states("stream") == ["success"], 60)
    query = "select last_scheduling_decision from dag_run where run_id = %s"
    looked_at: set[Any] = set()
    while len(looked_at) < 5:
        looked_at.add(cluster.ask(query, second.run_id)[0][0])
        assert set(second.states("echo")) == {"None"}, "it waits for the first run's"
    first_gates.end()
    second_gates.end()
    for run in (first, second):
        assert run.wait() == "success"
        assert run.states("echo") == ["success"] * 3


@pytest.mark.long
def test_execution_timeout_is_for_items_and_never_for_the_stream(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "timed_items", tmp_path)
    gates.open(1)  # item 0 sleeps 0 s
    wait_for_successes(run, 1)
    query = "select extract(epoch from now() - min(start_date)) from task_instance where run_id = %s"
    wait_until("the stream is open for longer", lambda: cluster.ask(query, run.run_id)[0][0] > 6, 60)
    gates.open(9)  # item n sleeps n seconds
    gates.end()
    assert run.wait() == "failed"
    states = run.states("echo")
    assert states[:4] == ["success"] * 4, "the head, and items 0 to 2"
    assert states[6:] == ["failed"] * 5, "items 5 to 9"


@pytest.mark.long
def test_dagrun_timeout_ends_the_stream(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "timed_run", tmp_path)
    gates.open(1)
    assert run.wait() == "failed"
    wait_until("the head is not deferred any more", lambda: head_state(run) in ("skipped", "failed"), 30)
    wait_until("the source is closed", lambda: gates.closed == [1], 10)
    assert len(run.instances("echo")) == 2


@pytest.mark.parametrize("materialize", ["auto", pytest.param("callback", marks=pytest.mark.long)])
def test_a_failed_item_of_a_run_that_fails_fast_ends_the_stream(
    cluster: Cluster, tmp_path: Path, materialize: str
) -> None:
    run, gates = start(cluster, f"fails_fast_{materialize}", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    (tmp_path / "echo 2").write_text("fail")
    gates.open(1)
    # Where workers commit, each trigger may start on the other triggerer, and the walk of the last one ends.
    wait_until("the source is closed", lambda: run.walked_once(gates.closed) == [2], 60)
    gates.open(2)
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed", "success", "success", "failed"]
    assert tries(run)[0] == 1, "no other try"
    assert "'echo' in DAG 'fails_fast_" in (said := run.log("echo", 0))
    assert "fail_fast=True" in said
    (tmp_path / "echo 2").unlink()
    (tmp_path / "beside None").write_text("go")
    run.clear(["echo", 0], ["echo", 3], "beside")
    gates.end()
    assert run.wait() == "success"
    assert run.states("echo") == ["success"] * 6
    assert run.walked_once(gates.asked) == [0, 1, 2], "it went on after what was committed"


@pytest.mark.parametrize("materialize", ["auto", pytest.param("callback", marks=pytest.mark.long)])
def test_more_failed_items_than_are_tolerated_end_the_stream(
    cluster: Cluster, tmp_path: Path, materialize: str
) -> None:
    run, gates = start(cluster, f"tolerates_one_{materialize}", tmp_path)
    (tmp_path / "echo 0").write_text("fail")
    gates.open(1)
    wait_until("one has failed", lambda: run.states("echo").count("failed") == 1, 60)
    gates.open(1)
    wait_for_successes(run, 1)
    assert not gates.closed, "it is tolerated"
    (tmp_path / "echo 2").write_text("fail")
    gates.open(1)
    if materialize == "callback":  # which looks when it commits
        wait_until("a second one has failed", lambda: run.states("echo").count("failed") == 2, 60)
        gates.open(1)
    wait_until("the source is closed", lambda: bool(gates.closed), 60)
    assert run.wait() == "failed"
    assert "2 item(s) of task 'echo'" in (said := run.log("echo", 0))
    assert "more than tolerate=1 allows" in said
    (tmp_path / "echo 0").unlink()
    (tmp_path / "echo 2").unlink()
    run.clear("echo", only_failed=True)
    gates.end()
    assert run.wait() == "success"


@pytest.mark.long
def test_a_run_that_fails_fast_for_another_task_is_not_well_before_its_stream_is_whole(
    cluster: Cluster, tmp_path: Path
) -> None:
    run, gates = start(cluster, "fails_fast_auto", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    (tmp_path / "beside None").write_text("fail")
    wait_until("the source is closed", lambda: gates.closed == [1], 60)
    assert run.wait() == "failed"
    wait_until("the head has failed", lambda: head_state(run) == "failed", 30)
    assert "Airflow skipped it (fail_fast" in run.instances("echo")[0]["rendered_map_index"]
    (tmp_path / "beside None").write_text("go")
    run.clear("stream", "echo", "beside", only_failed=True)
    gates.open(1)
    gates.end()
    assert run.wait() == "success"
    assert run.states("echo") == ["success"] * 4
    assert run.walked_once(gates.asked) == [0, 1]


@pytest.mark.long
def test_after_max_map_length_is_raised_the_stream_goes_on(cluster: Cluster) -> None:
    run = give(cluster, "too_many", {})
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed", *["success"] * 50]
    assert "has reached 50 item(s) and would have 71 instances" in run.log("echo", 0)
    for name in ("api-server", *TRIGGERERS):
        cluster.kill(name)
        cluster.start_component(name, {"core.max_map_length": "100"})
    cluster.wait_for_answers()
    run.clear(["echo", 0], include_downstream=True)
    assert run.wait() == "success"
    assert run.states("echo") == ["success"] * 71
    assert run.result() == list(range(70))
