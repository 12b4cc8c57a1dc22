"""100,000 rows in windows of 500, each a run of another DAG that iterates over them: does cost stay flat?"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from benchmarks.deployment import PeakMemory, WatchedAirflow, deployment
from benchmarks.many_items import cpu_of, idle_cpu

ROWS, WINDOW = (10_000, 100_000), 500

Measured = dict[str, Any]


def run() -> Measured:
    with deployment(**{"core.parallelism": "4"}) as airflow:
        idle = idle_cpu(airflow)
        return {f"{rows:,}": _measure(airflow, rows, idle) for rows in ROWS}


def _measure(airflow: WatchedAirflow, rows: int, idle: float) -> Measured:
    for dag_id in ("windows_parent", "windows_child"):
        airflow.wait_for_dag(dag_id)
    loops = airflow.statsd.timings["airflow.scheduler.scheduler_loop_duration"]
    loops.clear()
    with PeakMemory(airflow) as memory:
        cpu, began = cpu_of(airflow), time.time()
        run_id = airflow.trigger("windows_parent", {"pages": rows // WINDOW, "per_page": WINDOW})
        state = airflow.wait_for_run("windows_parent", run_id, timeout=3600)
        seconds = time.time() - began
        cpu = cpu_of(airflow) - cpu - idle * seconds
    if state != "success":
        raise RuntimeError(f"windows_parent ended as {state}")
    quarter = max(1, len(loops) // 4)
    return {
        "rows": rows,
        "windows": rows // WINDOW,
        "seconds": seconds,
        "cpu_ms_a_row": 1000 * cpu / rows,
        "cpu_s_a_window": cpu / (rows // WINDOW),
        "loop_ms_first_quarter": [median(loops[:quarter]), max(loops[:quarter])],
        "loop_ms_last_quarter": [median(loops[-quarter:]), max(loops[-quarter:])],
        "peak_mb": dict(memory.peaks),
    }
