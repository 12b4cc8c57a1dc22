"""Several triggerers on Postgres: who commits, who takes over, what happens without the plugin."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import (
    TRIGGERERS,
    launches,
    signal_all,
    start,
    triggerer_job,
    triggerer_of,
    wait_for_successes,
)
from tests.e2e.runs import Run
from tests.paged_api import PagedApi

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from deferred_expand.testing.statsd import StatsdListener
    from tests.e2e.cluster import Cluster


@pytest.mark.long
def test_many_streams_share_two_triggerers(
    cluster: LocalAirflow, statsd: StatsdListener, tmp_path: Path
) -> None:
    items, batches = "airflow.deferred_expand.item.committed", "airflow.deferred_expand.batch.committed"
    items_before, batches_before = statsd.counts[items], statsd.counts[batches]
    started = []
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        started.append(start(cluster, "gated_auto", folder))
    for _ in range(3):
        for _, gates in started:
            gates.open(2)
    for _, gates in started:
        gates.end()
    for run, gates in started:
        assert run.wait() == "success"
        assert run.result() == list(range(6))
        assert run.states("echo") == ["success"] * 7
        assert launches(cluster, run) == 1
        # A triggerer that misses a heartbeat on a busy machine is taken over from: asked again, no more.
        assert sorted(set(gates.asked)) == [0, 1, 2]
    wait_until("it is counted", lambda: statsd.counts[items] - items_before == 36, 10)
    assert 6 <= statsd.counts[batches] - batches_before <= 18
    assert statsd.timings["airflow.deferred_expand.batch.lag"]
    wait_until("nothing is pending", lambda: statsd.gauges["airflow.deferred_expand.item.pending"] == 0, 10)


def test_a_stopped_triggerer_is_taken_over_and_commits_nothing_when_it_goes_on(
    cluster: LocalAirflow, tmp_path: Path
) -> None:
    run, gates = start(cluster, "gated_triggerer", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    stopped = triggerer_of(cluster, run)
    gates.open(3)
    wait_until("the source has given the next page", lambda: len(gates.asked) == 2, 30, every=0.01)
    signal_all(cluster, stopped, signal.SIGSTOP)  # in the middle of a batch
    try:
        wait_for_successes(run, 5)
        assert triggerer_of(cluster, run) != stopped
        assert not gates.closed
    finally:
        signal_all(cluster, stopped, signal.SIGCONT)
    wait_until("the loser has closed its source", lambda: len(gates.closed) == 1, 30)
    gates.open(4)
    wait_for_successes(run, 9)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == list(range(9))
    assert run.states("echo") == ["success"] * 10
    assert gates.asked[:2] == [0, 1], "what was committed is not asked for again"


@pytest.mark.long
def test_a_chain_goes_on_at_the_page_it_had_reached(cluster: LocalAirflow) -> None:
    with PagedApi() as api:
        host, port = api.host.split(":")
        connection = {"connection_id": "paged_api", "conn_type": "http", "host": host, "port": int(port)}
        cluster.api("POST", "/connections", json=connection)
        cluster.wait_for_dag("http_killed")
        run = Run(cluster, "http_killed", cluster.trigger("http_killed"))
        wait_until("half of the pages are committed", lambda: len(run.instances("echo")) == 1 + 8, 60)
        killed = triggerer_of(cluster, run)
        cluster.kill(killed)
        cluster.start_component(killed)
        assert run.wait() == "success"
        assert run.result() == list(range(16))
        asked = api.cursors("http_killed")
        assert sorted(set(asked)) == list(range(8))
        assert len(asked) <= 9, "only the page in flight is asked for again"


@pytest.mark.long
def test_a_triggerer_dies_while_the_walk_is_held_back(cluster: LocalAirflow, tmp_path: Path) -> None:
    with PagedApi() as api:
        cluster.wait_for_dag("held_back")
        gate = tmp_path / "gate"
        conf = {"url": api.url("held_back"), "gate": str(gate)}
        run = Run(cluster, "held_back", cluster.trigger("held_back", conf))
        wait_until("two items wait", lambda: run.states("echo")[1:] == ["running"] * 2, 90)
        before = triggerer_job(cluster, run)
        for name in TRIGGERERS:
            cluster.kill(name)
            cluster.start_component(name)
        wait_until("it is walked again", lambda: triggerer_job(cluster, run) not in (None, before), 60)
        assert run.states("echo")[1:] == ["running"] * 2
        opened_at = time.time()
        gate.touch()
        assert run.wait() == "success"
        assert run.result() == list(range(6))
        asked = api.cursors("held_back")
        assert sorted(set(asked)) == list(range(6))
        # Two triggerers that start at once may be late with a beat, and Airflow moves the trigger again.
        assert asked.count(0) == asked.count(1) == 1, "what is committed is not asked for again"
        early = [one.cursor for one in api.requests["held_back"] if one.at < opened_at]
        assert early == [0, 1], "the source is left alone until items are finished"


@pytest.mark.long
def test_an_expander_that_stands_still_in_its_transaction_lets_go(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "gated_triggerer", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    head = run.instances("echo")[0]["id"]
    stands_still = cluster.home / "policy_stands_still"
    stands_still.touch()
    try:
        gates.open(1)
        wait_until("the head is locked", lambda: not can_lock(cluster, head), 30, every=0.05)
        wait_until("it is let go", lambda: can_lock(cluster, head), 25)
    finally:
        stands_still.unlink()
    gates.open(2)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == list(range(5))
    assert run.states("echo") == ["success"] * 6


def can_lock(cluster: Cluster, instance: str) -> bool:
    try:
        return bool(cluster.ask("select id from task_instance where id = %s for update nowait", instance))
    except psycopg.errors.LockNotAvailable:
        return False


@pytest.mark.long
def test_without_the_plugin_a_stream_goes_on_with_the_callback(cluster: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(cluster, "gated_auto", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    assert launches(cluster, run) == 1
    for name in TRIGGERERS:
        cluster.kill(name, signal.SIGTERM)
        cluster.start_component(name, {"deferred_expand.expander": "False"})
    gates.open(3)
    wait_for_successes(run, 5)
    assert launches(cluster, run) > 1, "a worker has committed"
    for name in TRIGGERERS:
        cluster.kill(name, signal.SIGKILL)
        cluster.start_component(name)
    gates.open(4)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == list(range(9))
    assert run.states("echo") == ["success"] * 10
