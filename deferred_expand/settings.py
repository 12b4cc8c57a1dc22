"""The ``[deferred_expand]`` section of ``airflow.cfg``, read when it is needed."""

from __future__ import annotations

from deferred_expand.airflow_internals.sdk import conf
from deferred_expand.settings_reference import OPTIONS, SECTION


def _option(name: str) -> str:
    return str(conf.get(SECTION, name, fallback=OPTIONS[name]["default"]))


def _is_true(name: str) -> bool:
    return _option(name).strip().lower() in ("true", "t", "1", "yes", "on")


def requeue_delay() -> float:
    """
    Seconds, at least one more than a worker's exit may go unnoticed.

    The supervisor of a task checks whether it has exited when its last socket closes, which may be
    just too early, and then not before ``[workers] min_heartbeat_interval``
    (airflow/sdk/execution_time/supervisor.py, ``_monitor_subprocess``; seen in about one of five
    exits). The scheduler's side is ``process_executor_events`` in
    airflow/jobs/scheduler_job_runner.py.
    """
    unnoticed = float(conf.get("workers", "min_heartbeat_interval", fallback="5"))
    return max(float(_option("requeue_delay")), unnoticed + 1)


def max_batch_bytes() -> int:
    return int(_option("max_batch_bytes"))


def expander() -> bool:
    return _is_true("expander")


def load_dags() -> bool:
    """Whether triggerers load DAG files for what only these have."""
    return _is_true("load_dags")


def dag_file_processes() -> int:
    return max(1, int(_option("dag_file_processes")))


def dag_file_memory() -> float:
    """In megabytes; 0: no limit."""
    return float(_option("dag_file_memory"))


def max_map_length() -> int:
    """Instances a mapped task may have, the stream head included."""
    return int(conf.get("core", "max_map_length", fallback="1024"))


def walk_ahead_bytes() -> int:
    return int(_option("walk_ahead_bytes"))


def walk_ahead() -> int:
    return int(_option("walk_ahead"))


def idle_timeout() -> float:
    return float(_option("idle_timeout"))


def read_timeout() -> float:
    return float(_option("read_timeout"))
