"""How cost grows with the instances of one run: a task, and a group of three, natively and streamed."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import ExitStack, closing
from typing import Any

import psutil
import psycopg

from benchmarks.deployment import PeakMemory, WatchedAirflow, deployment, wait_until
from tests.postgres import postgres_server

SIZES = (1_000, 3_000, 10_000)
PAGES, PAGE_SECONDS = 40, 0.5
WARM_UP = 120  # instances
SETTLE = 10.0  # seconds between two runs
IDLE = 20.0  # seconds in which idling is measured
LONGEST = 900.0  # seconds for a run
SHAPES = {
    "sqlite": ("empty_native", "empty_streamed"),
    "postgresql": ("empty_native", "empty_streamed", "group_native", "group_streamed", "group_pending"),
}

Measured = dict[str, Any]


class Database:
    """Asked past Airflow, so that asking costs it nothing."""

    def __init__(self, airflow: WatchedAirflow, address: str | None) -> None:
        self._file, self._address = f"file:{airflow.home}/airflow.db?mode=ro", address

    def made(self, run_id: str) -> int:
        query = "select count(*) from task_instance where run_id = {} and map_index >= 0"
        return int(self._ask(query, run_id))

    def has_ended(self, run_id: str) -> bool:
        """Airflow's API would load all instances of the run to say so, each time that it is asked."""
        return self._ask("select state from dag_run where run_id = {}", run_id) in ("success", "failed")

    def _ask(self, query: str, run_id: str) -> Any:
        if self._address is None:
            with closing(sqlite3.connect(self._file, uri=True)) as database:
                return database.execute(query.format("?"), [run_id]).fetchone()[0]
        with psycopg.connect(self._address) as connection:
            row = connection.execute(query.format("%s"), [run_id]).fetchone()
            return row[0] if row else None


def run() -> Measured:
    found: Measured = {}
    for kind, shapes in SHAPES.items():
        with ExitStack() as servers:
            address, settings = None, {}
            if kind == "postgresql":
                server = servers.enter_context(postgres_server())
                address = server.get_uri()
                settings = {"database.sql_alchemy_conn": address}
            airflow = servers.enter_context(
                deployment(hook=False, **{"core.max_map_length": "20000", **settings})
            )
            database = Database(airflow, address)
            for shape in shapes:
                airflow.wait_for_dag(f"sizes_{shape}")
            _measure(airflow, database, shapes[0], WARM_UP, dict.fromkeys(airflow.processes, 0.0))
            idle = _idle(airflow)
            for size in SIZES:
                for shape in shapes:
                    name = f"{kind} {shape} {size:,}"
                    found[name] = _measure(airflow, database, shape, size, idle)
                    print(name, found[name], file=sys.stderr, flush=True)
    return found


def _idle(airflow: WatchedAirflow) -> dict[str, float]:
    """Processor seconds a second of each component that has nothing to do."""
    before, began = _cpu(airflow), time.monotonic()
    time.sleep(IDLE)
    return {name: (cpu - before[name]) / (time.monotonic() - began) for name, cpu in _cpu(airflow).items()}


def _measure(
    airflow: WatchedAirflow, database: Database, shape: str, size: int, idle: dict[str, float]
) -> Measured:
    dag_id, tasks = f"sizes_{shape}", 3 if shape.startswith("group") else 1
    time.sleep(SETTLE)
    loops = airflow.statsd.timings["airflow.scheduler.scheduler_loop_duration"]
    loops.clear()
    per_page = size // tasks // PAGES
    wanted = per_page * PAGES * tasks + (tasks == 1 and not shape.endswith("native"))
    cpu, began = _cpu(airflow), time.monotonic()
    with PeakMemory(airflow) as memory:
        conf = {"pages": PAGES, "per_page": per_page, "page_seconds": PAGE_SECONDS}
        run_id = airflow.trigger(dag_id, conf)
        try:
            wait_until("all are made", lambda: database.made(run_id) >= wanted, LONGEST, every=0.5)
            made = time.monotonic() - began
            wait_until("it has ended", lambda: database.has_ended(run_id), LONGEST, every=0.5)
        except TimeoutError:
            made = float("inf")
    seconds = time.monotonic() - began
    spent = {name: after - cpu[name] - idle[name] * seconds for name, after in _cpu(airflow).items()}
    if not database.has_ended(run_id):
        airflow.api("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    return {
        "all_made": made,
        "seconds": seconds,
        "cpu_ms": {name: 1000 * value / wanted for name, value in spent.items()},
        "cpu_ms_in_all": 1000 * sum(spent.values()) / wanted,
        "loop_max_ms": max(loops, default=0.0),
        "peak_mb": {name: round(peak) for name, peak in memory.peaks.items()},
        "died": sorted(name for name, process in airflow.processes.items() if process.poll() is not None),
    }


def _cpu(airflow: WatchedAirflow) -> dict[str, float]:
    """Seconds, of each component with its processes that are there; workers are the scheduler's."""
    found = {}
    for name, process in airflow.processes.items():
        found[name] = 0.0
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for one in family:
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[name] += times.user + times.system + times.children_user + times.children_system
    return found
