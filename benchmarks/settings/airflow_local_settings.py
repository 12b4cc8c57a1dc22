"""Loaded by every Airflow process of a benchmark: counts its statements, and keeps some items waiting."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

_counter: memoryview | None = None


def _open_counter() -> None:
    """Anew in each process, also in forked ones; an mmap outlives a kill."""
    global _counter
    folder = os.environ.get("BENCHMARK_QUERIES")
    if folder:
        with (Path(folder) / str(os.getpid())).open("w+b") as file:
            file.truncate(8)
            _counter = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")


@event.listens_for(Engine, "before_cursor_execute")
def _count(*_: Any) -> None:
    if _counter is not None:
        _counter[0] += 1


def task_instance_mutation_hook(task_instance: Any, dag_run: Any = None) -> None:
    """Let what is only made wait forever, in a pool without slots; the stream head must run."""
    if task_instance.dag_id.startswith(("waiting_", "open_streams")) and task_instance.map_index > 0:
        task_instance.pool = "slotless"


_open_counter()
os.register_at_fork(after_in_child=_open_counter)
