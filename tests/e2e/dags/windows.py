"""Streams cut into windows, each of which another DAG works on in a run of its own."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param, dag, task, task_group

from deferred_expand import (
    DeferredExpandOperator,
    Page,
    StreamWindow,
    WindowRunOperator,
    iterate,
    stream,
    window_results,
)
from deferred_expand.airflow_internals.state_store import has_state_store
from tests.e2e.sources import gated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARAMS = {"gates": Param(""), "folder": Param("", type="string")}


def note(what: str, folder: str) -> None:
    with (Path(folder) / "notes").open("a") as notes:
        notes.write(f"{what} {time.time():.3f}\n")


def windowed(
    dag_id: str, child: str, size: int, *, retries: int = 0, every: float | None = None, **stream: Any
) -> None:
    with DAG(dag_id, schedule=None, params=PARAMS):
        rows = DeferredExpandOperator(
            task_id="rows", source=gated, source_kwargs={"gates": "{{ params.gates }}"}, **stream
        )
        load = WindowRunOperator.partial(
            task_id="load",
            trigger_dag_id=child,
            conf={"folder": "{{ params.folder }}"},
            results_of="double",
            retries=retries,
            retry_delay=timedelta(seconds=0),
        ).expand(window=rows.output.window(size, every))

        @task
        def report(results: Any) -> list[Any]:
            return [[*window_results(told), told["run_id"]] for told in results]

        report(load.output)


windowed("windowed", "work_on_window", 5, max_pending=3)
windowed("windowed_with_retries", "work_on_window", 5, retries=2)
windowed("windowed_callback", "work_on_window", 5, materialize="callback")
windowed("windowed_by_time", "iterate_over_window", 100, every=3)
windowed("windowed_paused", "paused_window", 5)
windowed("windowed_missing", "no_such_dag", 5)


@dag(schedule=None, params={"folder": Param("", type="string")}, max_active_runs=4)
def work_on_window() -> None:
    rows = StreamWindow(task_id="rows")

    @task
    def double(row: int, params: Any = None) -> int:
        if (Path(params["folder"]) / f"fail {row}").exists():
            raise ValueError("as told")
        while (Path(params["folder"]) / f"wait {row}").exists():
            time.sleep(0.1)
        note(f"double {row}", params["folder"])
        return 2 * row

    @task
    def total(rows: Any, doubled: Any) -> list[int]:
        return [len(rows), sum(rows), sum(doubled)]

    @task_group
    def steps(row: Any) -> None:
        @task
        def once(row: Any) -> Any:
            return row

        @task
        def twice(row: Any) -> Any:
            return 2 * row

        twice(once(row))

    total(rows.output, double.expand(row=rows.output))
    steps.expand(row=rows.output)


work_on_window()


@dag(schedule=None, params={"folder": Param("", type="string")})
def double_window() -> None:
    @task
    def double_all(rows: Any, params: Any = None) -> None:
        for row in rows:
            note(f"double {row}", params["folder"])

    double_all(StreamWindow(task_id="rows").output)


double_window()


@dag(schedule=None, params={"folder": Param("", type="string")}, is_paused_upon_creation=True)
def paused_window() -> None:
    @task
    def double(row: int) -> int:
        return 2 * row

    double.expand(row=StreamWindow(task_id="rows").output)


paused_window()

if has_state_store():

    @dag(schedule=None, params={"folder": Param("", type="string")})
    def iterate_over_window() -> None:
        @task
        def double(row: int) -> int:
            return 2 * row

        iterate(double, concurrency=4).over(row=StreamWindow(task_id="rows").output)

    iterate_over_window()

with DAG("windows_in_a_loop", schedule=None, params=PARAMS):

    @stream
    async def guesses(results: Any = None, cursor: int | None = None) -> AsyncIterator[Page]:
        """Goes on with what the last window has made of the guess before, until that is large."""
        number = cursor or 1
        while number < 30:
            yield Page([number, number + 1], cursor=number)
            async for told in results:
                number = sum(window_results(told))

    WindowRunOperator.partial(
        task_id="load",
        trigger_dag_id="work_on_window",
        conf={"folder": "{{ params.folder }}"},
        results_of="double",
    ).expand(window=guesses().window(100))

with DAG(
    "endless_windows",
    schedule="@continuous",
    max_active_runs=1,
    start_date=datetime(2026, 1, 1),
    is_paused_upon_creation=True,
):
    # A run of a schedule has no conf: what is given, and where it is told, is said by a Variable.
    rows = DeferredExpandOperator(
        task_id="rows",
        source=gated,
        source_kwargs={"gates": "{{ var.value.endless }}"},
        max_items=2,
        max_duration=timedelta(minutes=10),
        continue_last_run=True,
        retries=2,
        retry_delay=timedelta(seconds=0),
    )
    WindowRunOperator.partial(
        task_id="load", trigger_dag_id="double_window", conf={"folder": "{{ var.value.endless }}"}
    ).expand(window=rows.output.window(5))
