"""``airflow streams``, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import start, wait_for_successes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster
    from tests.e2e.gates import Gates
    from tests.e2e.runs import Run


def streams(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.run("streams", *arguments, "--output", "json"))
    return found


@pytest.fixture
def opened(cluster: Cluster, tmp_path: Path) -> tuple[Run, Gates]:
    run, gates = start(cluster, "gated_auto", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    return run, gates


def test_an_open_stream_is_listed_shown_and_stopped(cluster: Cluster, opened: tuple[Run, Gates]) -> None:
    run, gates = opened
    (listed,) = [stream for stream in streams(cluster, "list") if stream["run_id"] == run.run_id]
    assert (listed["dag_id"], listed["task_id"], listed["mapped_task_id"]) == ("gated_auto", "stream", "echo")
    assert (listed["items"], listed["batches"], listed["finished"], listed["failed"]) == ("2", "1", "2", "0")
    assert listed["walked_by"].startswith("triggerer ")
    assert listed["last_item_ago"].startswith("0:0")
    (shown,) = streams(cluster, "show", run.dag_id, run.run_id, "echo")
    assert (shown["state"], shown["items"]) == ("open", "2")

    token = ("--api-token", cluster.api_token())
    with pytest.raises(RuntimeError, match="max_pending is 0"):
        cluster.run("streams", "set", run.dag_id, run.run_id, "--max-pending", "0", *token)
    told = cluster.run("streams", "pause", run.dag_id, run.run_id, *token)
    assert "stream: paused, max_pending=None" in told
    told = cluster.run(
        "streams", "set", run.dag_id, run.run_id, "--max-pending", "40", "--tolerate", "5%", *token
    )
    assert "stream: paused, max_pending=40, rate_limit=None, tolerate='5%'" in told

    def paused() -> bool:
        (shown,) = streams(cluster, "show", run.dag_id, run.run_id)
        return (shown["state"], shown["waits_for"]) == ("paused", "a person to resume it")

    wait_until("its walk says so", paused, 120, every=2)
    gates.open(1)
    wait_until("the source has given it", lambda: gates.asked == [0, 1], 60)
    (shown,) = streams(cluster, "show", run.dag_id, run.run_id)
    assert shown["items"] == "2"
    assert "stream: max_pending=40" in cluster.run("streams", "resume", run.dag_id, run.run_id, *token)
    wait_for_successes(run, 3)

    with pytest.raises(RuntimeError, match="AIRFLOW_CLI_TOKEN"):
        cluster.run("streams", "stop", run.dag_id, run.run_id)
    with pytest.raises(RuntimeError, match="Airflow refused to mark 'echo' success"):
        cluster.run("streams", "stop", run.dag_id, run.run_id, "--api-token", "mine?")
    told = cluster.run("streams", "stop", run.dag_id, run.run_id, *token)
    assert "3 item(s) stay as they are" in told
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2], "what is downstream has run"
    assert not [stream for stream in streams(cluster, "list") if stream["run_id"] == run.run_id]
    (shown,) = streams(cluster, "show", run.dag_id, run.run_id)
    assert shown["state"] == "stopped (success)"


@pytest.mark.long
def test_a_stream_over_a_task_group_is_listed_and_stopped(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "grows", tmp_path)
    gates.open(2)
    wait_until("two chains ran", lambda: run.states("chain.tell").count("success") == 2, 120)
    (listed,) = [stream for stream in streams(cluster, "list") if stream["run_id"] == run.run_id]
    assert (listed["task_id"], listed["mapped_task_id"]) == ("users", "chain.tell")
    assert (listed["items"], listed["finished"]) == ("2", "2")
    told = cluster.run("streams", "stop", run.dag_id, run.run_id, "--api-token", cluster.api_token())
    assert "users.stream" in told
    assert run.wait() == "success"
    assert len(run.result()) == 2


def test_a_stream_is_followed_to_its_end_and_failed(cluster: Cluster, opened: tuple[Run, Gates]) -> None:
    run, gates = opened
    command = ["show", run.dag_id, run.run_id, "--follow"]
    following = subprocess.Popen(
        [sys.executable, "-m", "airflow", "streams", *command],
        env=cluster.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        gates.open(1)
        wait_for_successes(run, 3)
        told = cluster.run(
            "streams", "stop", run.dag_id, run.run_id, "stream", "--fail", "--api-token", cluster.api_token()
        )
        assert "is marked failed" in told
        printed, _ = following.communicate(timeout=60)
        assert "3/3" in printed
        assert "stopped (failed)" in printed
    finally:
        following.kill()
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed", "success", "success", "success"]


def test_what_is_not_there_is_said(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match="There is no stream in run 'no_run' of DAG 'gated_auto'"):
        cluster.run("streams", "show", "gated_auto", "no_run")
