"""300 open streams in one real triggerer: how late is its event loop, and does one fall to a worker?"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.deployment import PeakMemory, deployment, wait_until
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from pathlib import Path

RUNS = 10  # of one DAG: with all in one, its instances would be too many for a scheduler's pass
STREAMS = 30  # in a run
TO_WORKER = "For a worker to commit"  # what a stream's trigger logs then
OPEN_FOR = 60.0  # seconds of measuring, with all streams open


def run(seconds: float) -> dict[str, Any]:
    """
    Each stream gives its first page at once, and goes on when all are open.

    :param seconds: in which each stream gives a page of one item then.
    """
    with postgres_server() as server:
        server.psql("create database airflow")
        uri = server.get_uri("airflow")
        with deployment(**{"database.sql_alchemy_conn": uri}) as airflow, PeakMemory(airflow) as memory:
            measured = _measure(airflow, seconds)
            return measured | {
                "trigger_runner_mb": memory.peaks["trigger runner"],
                "triggerer_mb": memory.peaks["triggerer"],
            }


def _measure(airflow: Any, seconds: float) -> dict[str, Any]:
    airflow.wait_for_dag("open_streams")
    samples, gate = airflow.home / "lag.json", airflow.home / "gate"
    airflow.trigger("lag_probe", {"samples": str(samples)})
    for _ in range(RUNS):
        airflow.trigger("open_streams", {"seconds": seconds, "gate": str(gate)})
    wait_until("all streams are open", lambda: _open(airflow) >= RUNS * STREAMS, 1800, every=5)
    before = dict(airflow.statsd.counts)
    asked_before = _went_to_workers(airflow)
    gate.touch()
    time.sleep(OPEN_FOR)
    late = sorted(_latest(samples, OPEN_FOR))
    committed = {
        what: airflow.statsd.counts[name] - before.get(name, 0)
        for what in ("batch", "item")
        for name in [f"airflow.deferred_expand.{what}.committed"]
    }
    return {
        "streams": RUNS * STREAMS,
        "p50_ms": late[len(late) // 2],
        "p99_ms": late[int(len(late) * 0.99)],
        "max_ms": late[-1],
        "seconds_a_page": seconds,
        "seconds": OPEN_FOR,
        "batches_committed": committed["batch"],
        "items_committed": committed["item"],
        "went_to_workers": _went_to_workers(airflow) - asked_before,
    }


def _open(airflow: Any) -> int:
    """How many heads wait; none while nobody answers."""
    path = "/dags/open_streams/dagRuns/~/taskInstances"
    try:
        waiting = airflow.api("GET", path, params={"state": "deferred", "map_index": 0, "limit": 1})
    except httpx.HTTPError:
        return 0
    return int(waiting["total_entries"])


def _went_to_workers(airflow: Any) -> int:
    return sum(path.read_text().count(TO_WORKER) for path in airflow.home.glob("logs/**/*.log*"))


def _latest(samples: Path, seconds: float) -> list[float]:
    """Milliseconds, as the probe among the streams has noted them."""
    newest = time.time() - seconds
    lines = (json.loads(line) for line in samples.read_text().splitlines())
    return [late for line in lines if line["at"] > newest for late in line["late_ms"]]
