"""Run the demo: ``python -m deferred_expand.demo``."""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from deferred_expand.demo.airports_api import COLUMNS, PAGE_SIZE, read_rows
    from deferred_expand.demo.timeline import RunTimes, draw, figures, run_times, terminal_timeline
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install 'deferred-expand[demo]'")

from deferred_expand.testing.local_airflow import LocalAirflow, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

console = Console()
RUNS = {"native": "native .expand()", "streamed": "streamed .expand()"}


@contextmanager
def airports_api(delay: float) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "deferred_expand.demo.airports_api"]
    process = subprocess.Popen([*command, "--port", str(port), "--delay", str(delay)])
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/asked").is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until("the airports API answers", answers, timeout=30)
        yield url
    finally:
        process.terminate()
        process.wait()


def make_tables(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # task instances insert side by side
        for table in RUNS:
            connection.execute(f"CREATE TABLE {table} ({', '.join(COLUMNS)})")
        connection.commit()


def count_rows(database: Path, table: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def run_one(airflow: LocalAirflow, kind: str, url: str, database: Path, pages: int) -> RunTimes:
    """One run of one DAG with live progress."""
    dag_id = f"airports_{kind}"
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"url": f"{url}/pages/{kind}"})
    with Progress(
        TextColumn("{task.description:20}"),
        BarColumn(40),
        TextColumn("{task.completed:>3} of {task.total} pages"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        reading = progress.add_task(f"{kind}: read", total=pages)
        inserting = progress.add_task(f"{kind}: inserted", total=pages)
        while True:
            state = airflow.run_state(dag_id, run_id)
            asked = httpx.get(f"{url}/asked").json().get(kind, [])
            progress.update(reading, completed=len(asked))
            progress.update(inserting, completed=-(-count_rows(database, kind) // PAGE_SIZE))
            if state in ("success", "failed"):
                break
            time.sleep(0.5)
    if state == "failed":
        raise RuntimeError(f"run {run_id} of {dag_id} failed\n{airflow.outputs()}")
    run = airflow.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
    instances = airflow.task_instances(dag_id, run_id, "insert")
    name = RUNS[kind]
    if kind == "streamed":
        name = f"{name}, committed by {committer(airflow, instances[0])}"
    return run_times(name, run, instances, asked, count_rows(database, kind))


def committer(airflow: LocalAirflow, head: dict[str, Any]) -> str:
    """With the expander the stream head is at a worker once, to start; otherwise for each commit."""
    starts = airflow.output("api-server").read_text().count(f"/task-instances/{head['id']}/run")
    return "the expander" if starts == 1 else f"{starts - 1} worker callbacks"


def compare(airflow: LocalAirflow, url: str, database: Path, options: Any) -> bool:
    expected = len(read_rows())
    pages = -(-expected // PAGE_SIZE)
    runs = [run_one(airflow, kind, url, database, pages) for kind in RUNS]
    title = (
        f"{expected:,} rows of a paged API, {PAGE_SIZE} a page, {options.delay:g} s a page, "
        "one mapped task instance per page"
    )
    draw(runs, title, options.picture)
    console.print(terminal_timeline(runs))
    console.print()
    console.print(figures(runs))
    console.print(f"\npicture: {options.picture}", soft_wrap=True)
    complete = all(run.rows == expected for run in runs)
    if not complete:
        console.print(f"[red]not every table has the {expected:,} rows of the data set")
    return complete


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deferred_expand.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave Airflow running until Ctrl-C")
    parser.add_argument("--picture", type=Path, default=Path("demo.png"), help="where to draw the timeline")
    parser.add_argument("--delay", type=float, default=1.5, help="seconds that the API takes per page")
    options = parser.parse_args(arguments)
    for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignored
        signal.signal(ending, signal.default_int_handler)
    airflow = LocalAirflow(
        Path(__file__).parent / "dags",
        config={"deferred_expand.requeue_delay": "3", "workers.min_heartbeat_interval": "1"},
    )
    database = airflow.home / "airports.db"
    airflow.env["AIRFLOW_CONN_AIRPORTS"] = json.dumps({"conn_type": "sqlite", "host": str(database)})
    make_tables(database)
    console.print("starting Airflow: api-server, scheduler, dag-processor, triggerer", style="dim")
    try:
        with airports_api(options.delay) as url, airflow:
            if options.keep:
                console.print(f"open streams, as they go on: [bold]{airflow.url}/plugin/streams[/]")
            complete = compare(airflow, url, database, options)
            if options.keep:
                console.print(f"\nAirflow's web UI: [bold]{airflow.url}[/]  (Ctrl-C ends it)")
                while True:
                    time.sleep(1)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
