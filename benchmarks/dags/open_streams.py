"""Many slow streams at once, and one that measures how late the triggerer's event loop is."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

from benchmarks.open_streams import RUNS, STREAMS
from benchmarks.sources import lag_probe, slow_pages
from deferred_expand import DeferredExpandOperator


@task
def item(value: int) -> None:
    """Never runs: see airflow_local_settings.py."""


with DAG(
    "open_streams",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    max_active_runs=RUNS,
    max_active_tasks=RUNS * STREAMS,
    params={"seconds": 10, "gate": ""},
):
    for number in range(STREAMS):
        stream = DeferredExpandOperator(
            task_id=f"stream_{number}",
            source=slow_pages,
            source_kwargs={"seconds": "{{ params.seconds }}", "gate": "{{ params.gate }}"},
        )
        item.override(task_id=f"item_{number}").expand(value=stream.output)

with DAG("lag_probe", schedule=None, start_date=datetime(2026, 1, 1), params={"samples": ""}):
    probe = DeferredExpandOperator(
        task_id="probe", source=lag_probe, source_kwargs={"samples": "{{ params.samples }}"}
    )
    item.override(task_id="probed").expand(value=probe.output)
