"""300 open streams in one real triggerer: how late is its event loop?"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.deployment import PeakMemory, deployment, wait_until

if TYPE_CHECKING:
    from pathlib import Path

STREAMS = 300
TO_WORKER = "For a worker to commit"  # what a stream's trigger logs then
OPEN_FOR = 60.0  # seconds of measuring, with all streams open


def run(seconds: float) -> dict[str, Any]:
    """:param seconds: in which each stream gives a page of one item."""
    with deployment() as airflow, PeakMemory(airflow) as memory:
        airflow.wait_for_dag("open_streams")
        samples = airflow.home / "lag.json"
        run_id = airflow.trigger("open_streams", {"samples": str(samples), "seconds": seconds})
        wait_until("all streams are open", lambda: _deferred(airflow, run_id) >= STREAMS, 900, every=5)
        time.sleep(OPEN_FOR)
        asked = sum(path.read_text().count(TO_WORKER) for path in airflow.home.glob("logs/**/*.log*"))
        late = sorted(_latest(samples, OPEN_FOR))
        committed = airflow.statsd.counts["airflow.deferred_expand.batch.committed"]
        airflow.api("PATCH", f"/dags/open_streams/dagRuns/{run_id}", json={"state": "failed"})
        peaks = dict(memory.peaks)
    return {
        "streams": STREAMS,
        "p50_ms": late[len(late) // 2],
        "p99_ms": late[int(len(late) * 0.99)],
        "max_ms": late[-1],
        "seconds_a_page": seconds,
        "batches_committed": committed,
        "went_to_workers": asked,
        "trigger_runner_mb": peaks["trigger runner"],
        "triggerer_mb": peaks["triggerer"],
    }


def _deferred(airflow: Any, run_id: str) -> int:
    """How many stream heads wait; none while SQLite is too busy to tell."""
    path = f"/dags/open_streams/dagRuns/{run_id}/taskInstances"
    try:
        answer = airflow.api("GET", path, params={"state": "deferred", "limit": 1})
    except httpx.HTTPError:
        return 0
    return int(answer["total_entries"])


def _latest(samples: Path, seconds: float) -> list[float]:
    """Milliseconds, as the probe among the streams has noted them."""
    newest = time.time() - seconds
    lines = (json.loads(line) for line in samples.read_text().splitlines())
    return [late for line in lines if line["at"] > newest for late in line["late_ms"]]
