"""Many items in one task instance: what a killed worker costs, and what memory they take."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import httpx
import psutil

from benchmarks.deployment import PeakMemory, WatchedAirflow, deployment, wait_until
from benchmarks.many_items import FILES, server

COUNTS = (10_000, 100_000)
#: So that a worker's death is noticed while one waits: what is measured begins with the next try.
NOTICED = {
    "scheduler.task_instance_heartbeat_timeout": "10",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
}

Measured = dict[str, Any]


def run() -> Measured:
    with deployment(**NOTICED) as airflow, server(0.1) as url:
        result: Measured = {"resumed": _resume(airflow, url)}
    result["memory"] = {}
    for dag_id in ("nothing_threads", "nothing_async"):
        for count in COUNTS:
            with deployment(**{"core.max_map_length": "200000"}) as airflow:
                result["memory"][f"{dag_id}, {count:,}"] = _memory(airflow, dag_id, count)
    return result


def _resume(airflow: WatchedAirflow, url: str) -> Measured:
    """17,000 files of 100 ms, killed at half."""

    def asked() -> dict[str, Any]:
        return dict(httpx.get(f"{url}/asked", timeout=30).json())

    airflow.wait_for_dag("files_resumed")
    run_id = airflow.trigger("files_resumed", {"url": url, "count": FILES})
    wait_until("half of them are fetched", lambda: asked()["times"] > FILES / 2, 600)
    _kill_worker(airflow)
    at_death = asked()

    def second_try() -> dict[str, Any] | None:
        ti = airflow.task_instances("files_resumed", run_id, "fetch")[0]
        return ti if ti["try_number"] == 2 and ti["state"] == "running" else None

    instance = wait_until("the next try runs", second_try, 120, 0.05)

    def goes_on() -> dict[str, Any] | None:
        return now if (now := asked())["times"] > at_death["times"] else None

    after = wait_until("it goes on", goes_on, 120, 0.05)
    state = airflow.wait_for_run("files_resumed", run_id, timeout=600)
    if state != "success":
        raise RuntimeError(f"files_resumed ended as {state}")
    return {
        "items": FILES,
        "done_before": at_death["times"],
        "seconds_to_go_on": after["last"] - _moment(instance["start_date"]),
        "run_twice": asked()["twice"],
    }


def _kill_worker(airflow: WatchedAirflow) -> None:
    """The process of the one task that runs, and who watches it."""
    for process in psutil.Process(airflow.processes["scheduler"].pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if title.startswith("airflow worker -- ") and "LocalExecutor" not in title:
                parent = process.parent()
                for one in (parent, process):
                    if one is not None:
                        one.kill()


def _moment(date: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(date.replace("Z", "+00:00")).timestamp()


def _memory(airflow: WatchedAirflow, dag_id: str, count: int) -> Measured:
    airflow.wait_for_dag(dag_id)
    with PeakMemory(airflow) as memory:
        began = time.time()
        run_id = airflow.trigger(dag_id, {"count": count})
        state = airflow.wait_for_run(dag_id, run_id, timeout=1800)
    if state != "success":
        raise RuntimeError(f"{dag_id} ended as {state}")
    return {"items": count, "seconds": time.time() - began, "peak_mb": dict(memory.peaks)}
