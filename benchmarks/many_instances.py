"""40 pages of 25 items, 0.5 s a page: what do a thousand task instances cost to make?"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.deployment import deployment, wait_until

if TYPE_CHECKING:
    from benchmarks.deployment import WatchedAirflow

# The items wait for a pool without slots: a thousand worker starts would hide what is measured.
CONF = {"pages": 40, "per_page": 25, "page_seconds": 0.5, "item_seconds": 0}
ITEMS = 1000
SETTLE = 10.0  # seconds, for the scheduler to look at what was made

Measured = dict[str, Any]


def run(rounds: int) -> Measured:
    variants: dict[str, list[Measured]] = {"native": [], "expander": [], "callback": []}
    with deployment() as airflow:
        for _ in range(1 + rounds):
            for name, measured in variants.items():
                measured.append(_measure(airflow, name))
    return {
        name: {"cold": cold, **{key: median(one[key] for one in warm) for key in cold}, "rounds": warm}
        for name, (cold, *warm) in variants.items()
    }


def _measure(airflow: WatchedAirflow, name: str) -> Measured:
    timings = airflow.statsd.timings
    idle_from, idle_queries = time.monotonic(), airflow.queries()
    time.sleep(SETTLE)
    idle_rate = (airflow.queries() - idle_queries) / (time.monotonic() - idle_from)
    timings.clear()
    queries, started = airflow.queries(), time.monotonic()
    dag_id = f"waiting_{name}"
    run_id = airflow.trigger(dag_id, CONF)
    expected = ITEMS + (name != "native")
    wait_until("all are made", lambda: _made(airflow, run_id) == expected, timeout=300, every=0.1)
    all_made = time.monotonic() - started
    time.sleep(SETTLE)
    spent = airflow.queries() - queries - idle_rate * (time.monotonic() - started)
    loops = sorted(timings["airflow.scheduler.scheduler_loop_duration"])
    making = sum(timings["airflow.deferred_expand.commit.duration"]) or max(loops) - median(loops)
    airflow.api("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    airflow.wait_for_run(dag_id, run_id)
    return {
        "all_made": all_made,
        "made_per_second": ITEMS / (making / 1000),
        "queries_per_item": spent / ITEMS,
        "loop_p50_ms": median(loops),
        "loop_p95_ms": loops[int(len(loops) * 0.95)],
        "loop_max_ms": loops[-1],
    }


def _made(airflow: WatchedAirflow, run_id: str) -> int:
    with closing(sqlite3.connect(f"file:{airflow.home}/airflow.db?mode=ro", uri=True)) as database:
        query = "select count(*) from task_instance where run_id = ? and task_id = 'item' and map_index >= 0"
        return int(database.execute(query, [run_id]).fetchone()[0])
