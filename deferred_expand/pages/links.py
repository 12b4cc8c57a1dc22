"""Where pages lead to in Airflow's web UI, and what they ask of its API; relative to their own addresses."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from deferred_expand.iterating.limits import LIMITS_KEY

if TYPE_CHECKING:
    from deferred_expand.overview.stream import Stream


def stream_page(stream: Stream) -> str:
    return "stream?" + urlencode(
        {"dag_id": stream.dag_id, "run_id": stream.run_id, "task_id": stream.task_id}
    )


def run_page(stream: Stream) -> str:
    return other_run(stream.dag_id, stream.run_id)


def instance(stream: Stream, task_id: str, map_index: int) -> str:
    return instance_of(stream.dag_id, stream.run_id, task_id, map_index)


def instance_of(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    of_task = f"{other_run(dag_id, run_id)}/tasks/{_path(task_id)}"
    return of_task if map_index < 0 else f"{of_task}/mapped/{map_index}"


def mark_head(stream: Stream) -> str:
    """For PATCH with ``{"new_state": ...}``."""
    task_id, map_index = stream.head
    return f"{_api_of_task(stream.dag_id, stream.run_id, task_id)}/{map_index}"


def control(stream: Stream) -> str:
    """XComs of the unmapped task, of which one says what a person wants."""
    return f"{_api_of_task(stream.dag_id, stream.run_id, stream.task_id)}/xcomEntries"


def limits(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """For PUT with ``{"value": ...}``."""
    return f"{_api_of_task(dag_id, run_id, task_id)}/state-store/{LIMITS_KEY}?map_index={map_index}"


def other_run(dag_id: str, run_id: str) -> str:
    return f"../dags/{_path(dag_id)}/runs/{_path(run_id)}"


def _api_of_task(dag_id: str, run_id: str, task_id: str) -> str:
    return f"../api/v2/dags/{_path(dag_id)}/dagRuns/{_path(run_id)}/taskInstances/{_path(task_id)}"


def clear(stream: Stream) -> str:
    """For POST with what :func:`head_again` or :func:`failed_again` says."""
    return f"../api/v2/dags/{_path(stream.dag_id)}/clearTaskInstances"


def head_again(stream: Stream) -> str:
    task_id, map_index = stream.head
    return _clear(stream, [[task_id, map_index] if map_index >= 0 else task_id], only_failed=False)


def failed_again(stream: Stream) -> str:
    return _clear(stream, [str(stream.mapped_task_id)], only_failed=True)


def _clear(stream: Stream, task_ids: list[object], *, only_failed: bool) -> str:
    body = {
        "dry_run": False,
        "dag_run_id": stream.run_id,
        "task_ids": task_ids,
        "only_failed": only_failed,
        "include_downstream": True,
        "reset_dag_runs": True,
    }
    return json.dumps(body)


def _path(part: str) -> str:
    return quote(part, safe="")


links = SimpleNamespace(
    stream_page=stream_page,
    run_page=run_page,
    instance=instance,
    instance_of=instance_of,
    other_run=other_run,
    control=control,
    limits=limits,
    mark_head=mark_head,
    clear=clear,
    head_again=head_again,
    failed_again=failed_again,
)
