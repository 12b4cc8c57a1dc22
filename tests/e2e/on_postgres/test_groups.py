"""Task groups that grow with their stream, where the expander can lock the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import TRIGGERERS, assigned_to, start
from tests.e2e.runs import MAX_MAP_LENGTH, Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

CHAIN = ("chain.double", "chain.add", "chain.tell")


def give(cluster: Cluster, dag_id: str, **conf: Any) -> Run:
    cluster.wait_for_dag(dag_id)
    return Run(cluster, dag_id, cluster.trigger(dag_id, conf))


def told(numbers: range | list[int]) -> list[list[int]]:
    """What the chain makes of them."""
    return [[3 * n, 2 * n, 3 * n] for n in numbers]


def wait_for_chains(run: Run, count: int) -> None:
    wait_until(f"{count} chains ran", lambda: run.states("chain.tell").count("success") == count, 120)


def indexes(run: Run, task_id: str) -> list[int]:
    return sorted(ti["map_index"] for ti in run.instances(task_id))


def test_it_grows_depth_first_and_what_follows_waits(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows", tmp_path)
    gates.open(3)
    wait_for_chains(run, 3)
    assert run.states("users") == ["success"]
    assert run.states("users.stream") == ["deferred"]
    assert run.states("collect") == ["None"]
    gates.open(4)
    wait_for_chains(run, 7)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == told(range(7))
    assert all(indexes(run, task_id) == list(range(7)) for task_id in CHAIN), "no head among them"
    # The head goes on with the walk of the unmapped task, but where it waits in another triggerer.
    one = "triggerer 2" not in cluster.components
    assert (gates.asked if one else sorted(set(gates.asked))) == [0, 1]
    assert "7 items" in run.instances("users.stream")[0]["rendered_map_index"]


@pytest.mark.long
def test_no_more_are_open_than_may_be(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows_pending", tmp_path)
    gates.open(20)
    gates.end()
    most = 0

    def over() -> bool:
        nonlocal most
        states = run.states("chain.tell")
        most = max(most, len(states) - states.count("success"))
        state = cluster.api("GET", f"/dags/{run.dag_id}/dagRuns/{run.run_id}")["state"]
        return bool(state in ("success", "failed"))

    wait_until("the run is over", over, 480)
    assert run.wait() == "success"
    assert run.result() == told(range(20))
    assert most <= 4


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("group_as_many") / "count"


@pytest.fixture(scope="module")
def as_many(cluster: Cluster, count: Path) -> Run:
    """A finished run of five items."""
    count.write_text("5")
    run = give(cluster, "grows_as_many", count=str(count))
    assert run.wait() == "success"
    return run


def test_clear_an_index_with_downstream(as_many: Run) -> None:
    as_many.clear(["chain.add", 2], include_downstream=True)
    assert as_many.wait() == "success"
    tries = {task_id: [ti["try_number"] for ti in as_many.instances(task_id)] for task_id in CHAIN}
    assert tries == {
        "chain.double": [1, 1, 1, 1, 1],
        "chain.add": [1, 1, 2, 1, 1],
        "chain.tell": [1, 1, 2, 1, 1],
    }
    assert as_many.result() == told(range(5))


@pytest.mark.long
def test_clear_the_head_and_the_group(as_many: Run, count: Path) -> None:
    count.write_text("99")  # not asked: the stream is there
    as_many.clear("users.stream")
    assert as_many.wait() == "success"
    as_many.clear(*CHAIN)
    assert as_many.wait() == "success"
    assert as_many.instances("users.stream")[0]["try_number"] == 2
    assert as_many.result() == told(range(5))


@pytest.mark.parametrize("items", [8, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 0)), 6])
def test_clear_the_stream_with_downstream(as_many: Run, count: Path, items: int) -> None:
    """Longer, shorter, empty, and longer again than what became REMOVED."""
    before = len(as_many.instances("chain.tell"))
    count.write_text(str(items))
    as_many.clear("users", include_downstream=True)
    assert as_many.wait() in ("success", "failed"), "some rules count what is removed"
    for task_id in CHAIN:
        assert as_many.states(task_id) == [*["success"] * items, *["removed"] * (before - items)]
    if items >= before:
        assert as_many.result() == told(range(items))


def test_rules_hold_for_each_index(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows_by_rules", tmp_path)
    gates.open(5)
    wait_until("an item has failed", lambda: "success" in run.states("by_rules.on_failure"), 120)
    gates.open(5)
    gates.end()
    assert run.wait() in ("success", "failed")
    failed = [n in (3, 7) for n in range(10)]
    assert run.states("by_rules.fails_on") == ["failed" if one else "success" for one in failed]
    assert run.states("by_rules.on_failure") == ["success" if one else "skipped" for one in failed]
    assert run.states("by_rules.join") == ["upstream_failed" if one else "success" for one in failed]


def test_setups_teardowns_plain_groups_and_upstreams_from_outside(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows_with_all", tmp_path)
    gates.open(2)
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    for name in ("begin", "nested.double", "nothing", "clean_up", "after_outside"):
        assert run.states(f"everything.{name}") == ["success"] * 4


@pytest.mark.long
def test_beside_others_that_follow_the_stream(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows_beside_others", tmp_path)
    gates.open(3)
    wait_for_chains(run, 3)
    gates.end()
    assert run.wait() == "success"
    assert run.result("collect_chain") == told([0, 10, 20])
    assert run.result("collect_all") == [0, 1, 2]
    assert run.states("echo") == ["success"] * 4


@pytest.mark.long
def test_over_a_stream_of_streams_one_of_which_has_a_group_of_its_own(cluster: Cluster) -> None:
    run = give(cluster, "grows_zipped")
    assert run.wait() == "success"
    assert run.result("collect_pairs") == [2 * n * n for n in range(4)]
    assert run.result("collect_ones") == told(range(5))


@pytest.mark.long
def test_a_source_goes_on_with_the_results_of_one_of_its_tasks(cluster: Cluster) -> None:
    run = give(cluster, "grows_in_a_loop")
    assert run.wait() == "success"
    assert run.result() == told(range(9))


@pytest.mark.long
def test_a_stream_with_no_items(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows", tmp_path)
    gates.end()
    assert run.wait() == "success"
    assert run.states("users.stream") == ["skipped"]
    assert [run.states(task_id) for task_id in CHAIN] == [["skipped"]] * 3
    assert run.result() == []


def test_a_source_that_fails_leaves_what_it_has_given(cluster: Cluster) -> None:
    run = give(cluster, "grows_fails")
    assert run.wait() == "failed"
    assert run.states("chain.tell") == ["success"] * 3
    assert run.states("users.stream") == ["failed"]
    assert run.states("collect") == ["upstream_failed"]


@pytest.mark.long
def test_a_stream_that_is_too_long_says_so(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows_too_long", tmp_path)
    gates.open(MAX_MAP_LENGTH)
    done = ["success"] * MAX_MAP_LENGTH
    wait_until("all that may be are done", lambda: run.states("nothing.last") == done, 120)
    gates.open(1)
    assert run.wait() == "failed"
    assert run.states("nothing.last") == done
    assert run.states("users.stream") == ["failed"]
    wanted = f"would have {MAX_MAP_LENGTH + 1}, which is more than [core] max_map_length"
    assert wanted in run.log("users.stream")


@pytest.mark.long
def test_a_triggerer_that_dies_is_taken_over_from(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows_retried", tmp_path)
    gates.open(3)
    wait_for_chains(run, 3)
    head = cluster.api("GET", f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/users.stream")
    name = assigned_to(cluster, head["triggerer_job"]["id"])
    assert name in TRIGGERERS
    cluster.kill(name)
    gates.open(3)
    wait_for_chains(run, 6)
    cluster.start_component(name)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == told(range(6))


@pytest.mark.long
def test_with_the_callback_airflow_expands_it_at_the_end(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows_callback", tmp_path)
    gates.open(3)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == told(range(3))
    assert "has not grown with the stream: Airflow expands it now" in run.log("users")


@pytest.mark.long
def test_marked_as_done_before_it_has_instances_the_head_says_what_to_clear(
    cluster: Cluster, tmp_path: Path
) -> None:
    run, gates = start(cluster, "grows", tmp_path)
    wait_until("the stream is open", lambda: run.states("users") == ["deferred"], 60)
    run.mark("users", "success")
    gates.open(3)
    gates.end()
    assert run.wait() == "failed"
    assert run.states("chain.double") == ["upstream_failed"], "as natively"
    assert "Clear 'users' with its downstream" in run.log("users.stream")
    run.clear("users", include_downstream=True)
    assert run.wait() == "success"
    assert run.result() == told(range(3))
