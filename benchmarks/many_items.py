"""17,000 tiny files: what an item costs in one task instance, and natively."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from benchmarks.deployment import ROOT, PeakMemory, WatchedAirflow, deployment, wait_until
from deferred_expand.testing.local_airflow import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 17_000
NATIVE = 300  # task instances, which take long
AT_A_TIME = 200
SLOW_FILES = 6_000
HOPS = 2_000
NATIVE_HOPS = 100
IDLE = 20.0  # seconds in which what Airflow costs by itself is measured

Measured = dict[str, Any]


def run() -> Measured:
    with deployment(**{"core.parallelism": "4"}) as airflow:
        idle = idle_cpu(airflow)
        result: Measured = {"idle_cpu": idle}
        for name, seconds in (("10 ms", 0.01), ("100 ms", 0.1)):
            with server(seconds) as url:
                result[name] = _files(airflow, url, idle)
        result["1 s, 200 items a second"] = _slow_files(airflow, idle)
        conf = {"url": ""}
        script = [sys.executable, "-m", "benchmarks.fetching", "waits", str(HOPS), "2"]
        result["hops"] = {
            "script": {"items": HOPS, **_told(script)},
            "iterate": _measure(airflow, "hops_iterate", HOPS, conf, idle),
            "native": _measure(airflow, "hops_native", NATIVE_HOPS, conf, idle),
        }
    return result


def _files(airflow: WatchedAirflow, url: str, idle: float) -> Measured:
    script = [sys.executable, "-m", "benchmarks.fetching", url, str(FILES), str(AT_A_TIME)]
    found = {"script": {"items": FILES, **_told(script)}}
    for dag_id in ("files_loop", "files_iterate", "files_pool", "files_iterate_threads"):
        found[dag_id.removeprefix("files_")] = _measure(airflow, dag_id, FILES, {"url": url}, idle)
    found["native"] = _measure(airflow, "files_native", NATIVE, {"url": url}, idle)
    return found


def _slow_files(airflow: WatchedAirflow, idle: float) -> Measured:
    """As many at a time, so that the server gives 200 a second."""
    with server(1.0) as url:
        return {
            dag_id.removeprefix("files_"): _measure(airflow, dag_id, SLOW_FILES, {"url": url}, idle)
            for dag_id in ("files_loop", "files_iterate")
        }


def _told(script: list[str]) -> Measured:
    told = subprocess.run(script, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(told))


def _measure(airflow: WatchedAirflow, dag_id: str, items: int, conf: Measured, idle: float) -> Measured:
    """Seconds from trigger to end, and the processor time that this took of all of Airflow beside idling."""
    airflow.wait_for_dag(dag_id)
    with PeakMemory(airflow) as memory:
        cpu, began = cpu_of(airflow), time.time()
        run_id = airflow.trigger(dag_id, {**conf, "count": items})
        state = airflow.wait_for_run(dag_id, run_id, timeout=1800)
        seconds = time.time() - began
        cpu = cpu_of(airflow) - cpu - idle * seconds
    if state != "success":
        raise RuntimeError(f"{dag_id} ended as {state}")
    return {"items": items, "seconds": seconds, "cpu": cpu, "worker_mb": memory.peaks.get("worker", 0.0)}


def idle_cpu(airflow: WatchedAirflow) -> float:
    """Processor seconds a second."""
    wait_until("all is parsed", lambda: bool(airflow.api("GET", "/dags")["total_entries"]), 60)
    cpu = cpu_of(airflow)
    time.sleep(IDLE)
    return (cpu_of(airflow) - cpu) / IDLE


def cpu_of(airflow: WatchedAirflow) -> float:
    """Of all processes, those among them that have ended and were waited for."""
    total = 0.0
    for process in airflow.processes.values():
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def server(seconds: float) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.tiny_files", str(port), str(seconds)], cwd=ROOT
    )
    try:
        wait_until("the server answers", lambda: _answers(port), 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/0", timeout=5).is_success
    except httpx.HTTPError:
        return False
