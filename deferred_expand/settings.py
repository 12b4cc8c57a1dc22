"""The ``[deferred_expand]`` section of ``airflow.cfg``, read when it is needed."""

from __future__ import annotations

from deferred_expand.airflow_internals import conf
from deferred_expand.settings_reference import OPTIONS, SECTION


def _option(name: str) -> str:
    return conf.get(SECTION, name, fallback=OPTIONS[name]["default"])


def requeue_delay() -> float:
    return float(_option("requeue_delay"))


def resume_delay() -> float:
    return float(_option("resume_delay"))


def max_batch_bytes() -> int:
    return int(_option("max_batch_bytes"))


def walk_ahead() -> int:
    return int(_option("walk_ahead"))


def idle_timeout() -> float:
    return float(_option("idle_timeout"))
