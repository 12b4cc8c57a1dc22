"""A stream whose items share an instance for each batch, beside an instance each, and beside others."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.deployment import deployment

if TYPE_CHECKING:
    from benchmarks.deployment import WatchedAirflow

NOTHING = 2_000
PAGES: dict[str, Any] = {"count": 20, "items": 5, "page_seconds": 1.5, "item_seconds": 0.2}

Measured = dict[str, Any]


def run(rounds: int) -> Measured:
    """Medians of warm rounds, interleaved, after one that is cold; of the others one, warm, too."""
    measured: dict[str, list[Measured]] = {"stream_iterate": [], "stream_expand": []}
    nothing: dict[str, list[Measured]] = {"nothing_threads": [], "nothing_async": []}
    with deployment() as airflow:
        for _ in range(1 + rounds):
            for dag_id, of_it in measured.items():
                of_it.append(_stream(airflow, dag_id))
            for dag_id, of_it in nothing.items():
                of_it.append(_nothing(airflow, dag_id))
    all_pages = PAGES["count"] * PAGES["page_seconds"]
    return {
        "floor": {"first_item": PAGES["page_seconds"], "all_done": all_pages + PAGES["item_seconds"]},
        **{name: _median(of_it[1:]) for name, of_it in {**measured, **nothing}.items()},
        "peers": peers.run(NOTHING, PAGES),
    }


def _stream(airflow: WatchedAirflow, dag_id: str) -> Measured:
    airflow.wait_for_dag(dag_id)
    notes = Path(airflow.home, f"notes_{time.time()}")
    asked = time.time()
    run_id = airflow.trigger(dag_id, {**PAGES, "notes": str(notes)})
    _must_succeed(airflow, dag_id, run_id)
    begun = sorted(float(line) for line in notes.read_text().split())
    return {"first_item": begun[0] - asked, "all_done": begun[-1] + PAGES["item_seconds"] - asked}


def _nothing(airflow: WatchedAirflow, dag_id: str) -> Measured:
    airflow.wait_for_dag(dag_id)
    asked = time.time()
    run_id = airflow.trigger(dag_id, {"count": NOTHING})
    _must_succeed(airflow, dag_id, run_id)
    return {"all_done": time.time() - asked}


def _must_succeed(airflow: WatchedAirflow, dag_id: str, run_id: str) -> None:
    if (state := airflow.wait_for_run(dag_id, run_id, timeout=600)) != "success":
        raise RuntimeError(f"{dag_id} ended as {state}")


def _median(measured: list[Measured]) -> Measured:
    return {key: median(one[key] for one in measured) for key in measured[0]}
