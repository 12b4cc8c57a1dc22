"""The processes of one Airflow, to be hit by faults, and what their databases know."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import TYPE_CHECKING

import psutil
import psycopg

from deferred_expand.testing.local_airflow import wait_until
from tests.chaos.operators import BOOK
from tests.e2e.cluster import assigned_to, postgres_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.cluster import Cluster

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


@dataclass(frozen=True)
class Written:
    """:param at: seconds since the epoch."""

    number: int
    map_index: int
    at: float


class Deployment:
    """
    :param cluster: it runs.
    :ivar book: the address of the database that the items write to, beside Airflow's own.
    :ivar ended_by_cut: components that a cut of the database has brought to their end.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.server.psql("create database book")
        self.book = cluster.server.get_uri("book")
        self.ended_by_cut: set[str] = set()
        self._walks: dict[str, str] = {}  # the triggerer that was last seen to walk it, by run
        with psycopg.connect(self.book) as connection:
            connection.execute(BOOK)

    def written(self, run_id: str) -> list[Written]:
        """What the items of a run wrote, each time they ran."""
        with psycopg.connect(self.book) as connection:
            query = "select number, map_index, extract(epoch from at) from written where run_id = %s"
            rows = connection.execute(query, (run_id,)).fetchall()
            return [Written(number, map_index, float(at)) for number, map_index, at in rows]

    def triggerer_of(self, run_id: str) -> str:
        """The triggerer that walks the run's stream, or did when it last had a trigger."""
        query = """
            select triggerer_id from trigger join task_instance on trigger_id = trigger.id
            where run_id = %s and map_index = 0 and triggerer_id is not null
        """

        def look() -> str | None:
            jobs = [row[0] for row in self.cluster.ask(query, run_id)]
            if jobs:
                self._walks[run_id] = assigned_to(self.cluster, jobs[0])
            return self._walks.get(run_id)

        return wait_until("the stream has a trigger", look, 60)

    def worker_of(self, run_id: str, *, head: bool, resumed: bool) -> list[psutil.Process]:
        """
        The processes in which the stream head, or any item, is at work: the task and its supervisor.

        :param resumed: the head is handling an event, and has not just started.
        """
        which = "map_index > 0"
        if head:
            which = "map_index = 0" + " and next_method is not null" * resumed
        return self.worker_at(run_id, which)

    def worker_at(self, run_id: str, which: str) -> list[psutil.Process]:
        """
        The processes in which a running instance is at work.

        :param which: condition, of Airflow's task_instance.
        """
        query = f"select id from task_instance where run_id = %s and state = 'running' and {which}"
        titles = {f"airflow worker -- {row[0]}" for row in self.cluster.ask(query, run_id)}
        for process in self._task_processes() if titles else ():
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).strip() in titles:
                    return [supervisor, process] if (supervisor := process.parent()) else [process]
        return []

    def _task_processes(self) -> list[psutil.Process]:
        parents = [name for name in ("scheduler", "worker") if name in self.cluster.processes]
        roots = [psutil.Process(self.cluster.processes[name].pid) for name in parents]
        return [process for root in roots for process in root.children(recursive=True)]

    def family(self, component: str) -> list[psutil.Process]:
        """The component's process and all that it has started."""
        process = psutil.Process(self.cluster.processes[component].pid)
        return [process, *process.children(recursive=True)]

    def started_at(self, component: str) -> float:
        """In seconds since the epoch."""
        return psutil.Process(self.cluster.processes[component].pid).create_time()

    def restart_scheduler_if_given_up(self) -> None:
        """
        As who runs it would.

        A scheduler that stood still may take itself for dead when it goes on. It then keeps resetting
        what it has queued (airflow/jobs/scheduler_job_runner.py, ``adopt_or_reset_orphaned_tasks``), and
        all that follows would run again for no fault of ours.
        """
        went_on_at = time.time()
        query = """
            select state from job where job_type = 'SchedulerJob' and id = (select max(id) from job
            where job_type = 'SchedulerJob') and extract(epoch from latest_heartbeat) > %s
        """
        rows = wait_until("the scheduler's heart beats", lambda: self.cluster.ask(query, went_on_at), 60)
        if rows[0][0] != "running":
            self.cluster.kill("scheduler")
            self.cluster.start_component("scheduler")

    def times_scheduler_gave_up(self) -> int:
        """How often a scheduler was taken for dead so far, by another one or by itself."""
        return self.cluster.output("scheduler").read_text().count("SchedulerJob instances as failed")

    def cut_database(self) -> None:
        """
        End all connections to Airflow's database from the server's side.

        Some statements of Airflow's are not tried again, so that a component may end, which is then
        started as who runs it would (seen of the scheduler, in ``ConnectionTestRequest``'s query).
        """
        cut_at = time.time()
        self.cluster.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid != pg_backend_pid()"
        )
        wait_until("all hearts beat again", lambda: self._all_beat_since(cut_at), 90)

    def _all_beat_since(self, moment: float) -> bool:
        for name, process in list(self.cluster.processes.items()):
            if process.poll() is not None:
                self.ended_by_cut.add(name)
                self.cluster.kill(name)
                self.cluster.start_component(name)
        query = (
            "select count(*) from job where state = 'running' and extract(epoch from latest_heartbeat) > %s"
        )
        with suppress(psycopg.OperationalError):
            jobs = len({*self.cluster.processes} - {"api-server", "worker"})
            return bool(self.cluster.ask(query, moment)[0][0] >= jobs)
        return False


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        _signal(process, SIGKILL)


def stop_for(seconds: float, processes: list[psutil.Process]) -> None:
    """The processes stand still."""
    for process in processes:
        _signal(process, SIGSTOP)
    time.sleep(seconds)
    for process in processes:
        _signal(process, SIGCONT)


def _signal(process: psutil.Process, how: Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(how)


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """:param folder: for the database server."""
    config = {**TIME_OUTS, "core.parallelism": "6", "core.max_map_length": "200"}
    with postgres_cluster(folder, config) as cluster:
        yield Deployment(cluster)
