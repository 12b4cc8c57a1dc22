"""An Airflow that is watched from outside: memory, worker launches, queries, scheduler loops."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from deferred_expand.testing.local_airflow import LocalAirflow, wait_until
from deferred_expand.testing.statsd import StatsdListener

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
_LAUNCH = re.compile(r"PATCH /execution/task-instances/[^/ ]+/run|/task-instances/[0-9a-f-]+/run")


class PeakMemory:
    """The largest resident set, in MB, that any one process of each kind had."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._airflow = airflow
        self._stop = threading.Event()
        self.peaks: dict[str, float] = defaultdict(float)

    def __enter__(self) -> PeakMemory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for name, process in list(self._airflow.processes.items()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._look_at(name, psutil.Process(process.pid))

    def _look_at(self, name: str, process: psutil.Process) -> None:
        self._note(name, process)
        below = {"triggerer": "trigger runner", "scheduler": "worker"}.get(name, name)
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._note(below, child)

    def _note(self, kind: str, process: psutil.Process) -> None:
        self.peaks[kind] = max(self.peaks[kind], process.memory_info().rss / 1e6)


class WatchedAirflow(LocalAirflow):
    """
    :param requeue_delay: seconds, for the worker callback.
    :param hook: count statements, and let items of some DAGs wait: with a ``task_instance_mutation_hook``,
        and where one is set instances are made one by one.
    """

    def __init__(self, requeue_delay: float = 3, *, hook: bool = True, **config: str) -> None:
        self.statsd = StatsdListener()
        super().__init__(
            ROOT / "benchmarks/dags",
            python_path=[ROOT, *([ROOT / "benchmarks/settings"] if hook else [])],
            config={
                "deferred_expand.requeue_delay": str(requeue_delay),
                "workers.min_heartbeat_interval": "1",
                "core.max_map_length": "10000",
                **self.statsd.config,
                **config,
            },
        )
        self.queries_folder = self.home / "queries"
        self.queries_folder.mkdir()
        self.env["BENCHMARK_QUERIES"] = str(self.queries_folder)

    def launches(self) -> int:
        """How often a worker has started a task since the start of Airflow."""
        return len(_LAUNCH.findall(self.output("api-server").read_text(errors="replace")))

    def queries(self) -> int:
        """How many statements all processes have sent to the metadata database."""
        return sum(int.from_bytes(path.read_bytes()[:8], "little") for path in self.queries_folder.iterdir())

    def measure(self, dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
        """Run a DAG to its end: seconds from its trigger, peaks in MB, worker launches."""
        launched = self.launches()
        yields = self.home / f"yields_{dag_id}_{launched}"
        committed = self.statsd.counted["airflow.deferred_expand.item.committed"]
        committed.clear()
        with PeakMemory(self) as memory:
            asked = time.time()
            run_id = self.trigger(dag_id, {**conf, "yields": str(yields)})
            state = self.wait_for_run(dag_id, run_id, timeout=1800)
        if state != "success":
            raise RuntimeError(f"{dag_id} ended as {state}: {self.task_log(dag_id, run_id, 'fetch')}")
        items = [ti for ti in self.task_instances(dag_id, run_id, "item") if not _is_head(dag_id, ti)]
        return {
            "items": len(items),
            "first_item": min(_seconds(ti["start_date"]) for ti in items) - asked,
            "all_done": max(_seconds(ti["end_date"]) for ti in items) - asked,
            "launches": self.launches() - launched,
            "peak_mb": dict(memory.peaks),
            "to_instances": _latencies(yields, committed),
        }


def _latencies(yields: Path, committed: list[tuple[float, float]]) -> list[float]:
    """Seconds from each page's yield to its items' instances; only where the expander made them."""
    if not yields.exists() or not committed:
        return []
    given = [float(line) for line in yields.read_text().split()]
    latencies: list[float] = []
    items, of_page = 0.0, sum(count for _, count in committed) / len(given)
    for at, count in committed:
        items += count
        while len(latencies) < len(given) and items >= (len(latencies) + 1) * of_page:
            latencies.append(at - given[len(latencies)])
    return latencies


def _is_head(dag_id: str, instance: dict[str, Any]) -> bool:
    return "native" not in dag_id and instance["map_index"] == 0


def _seconds(date: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(date.replace("Z", "+00:00")).timestamp()


@contextlib.contextmanager
def deployment(**settings: Any) -> Iterator[WatchedAirflow]:
    """A running Airflow that knows all DAGs of the benchmarks."""
    with WatchedAirflow(**settings) as airflow:
        for prefix in ("", "waiting_"):
            for kind in ("native", "expander", "callback"):
                airflow.wait_for_dag(f"{prefix}{kind}")
        airflow.api("POST", "/pools", json={"name": "slotless", "slots": 0})
        yield airflow


__all__ = ["WatchedAirflow", "deployment", "wait_until"]
