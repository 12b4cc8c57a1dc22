"""
What a task or a trigger asks of Airflow through its supervisor.

A trigger is answered fewer requests than a task, and hangs on others
(airflow/jobs/triggerer_job_runner.py, ``TriggerRunnerSupervisor._handle_request``); those in here are
answered in both.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetTaskStates, GetTICount, SetRenderedMapIndex

if TYPE_CHECKING:
    from collections.abc import Collection

ALL_STATES_BUT_REMOVED = (
    "null", "scheduled", "queued", "running", "restarting", "deferred", "up_for_retry",
    "up_for_reschedule", "success", "failed", "skipped", "upstream_failed",
)  # fmt: skip
"""For ``GetTICount``: "null" stands for no state (execution_api/routes/task_instances.py)."""

ENDED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

ROWS_PER_REQUEST = 100  # states in one answer that cost as much as a request for one more

IN_PROCESS_COMMS = "InProcessSupervisorComms"
MAP_LENGTH_REFUSAL = "unmappable_return_value_length"


def is_in_process() -> bool:
    """
    Whether this is ``dag.test()``, where tasks and triggers run in one process.

    There the comms have no socket, and a class of their own (airflow/sdk/execution_time/supervisor.py),
    whose module is not to be imported by tasks.
    """
    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return type(comms).__name__ == IN_PROCESS_COMMS


def count_task_instances(
    dag_id: str, run_id: str, task_id: str, states: Collection[str] = ALL_STATES_BUT_REMOVED
) -> int:
    """How many instances of a task are in one of the states."""
    answer = task_runner.SUPERVISOR_COMMS.send(
        GetTICount(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id], states=list(states))
    )
    return int(answer.count)  # type: ignore[union-attr]


def task_instance_state(dag_id: str, run_id: str, task_id: str, map_index: int) -> str | None:
    """The state of one task instance."""
    answer = task_runner.SUPERVISOR_COMMS.send(
        GetTaskStates(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id], map_index=map_index)
    )
    states: dict[str, dict[str, str | None]] = answer.task_states  # type: ignore[union-attr]
    return next(iter(states.get(run_id, {}).values()), None)


def finished_items(dag_id: str, run_id: str, task_id: str, among: Collection[int]) -> set[int]:
    """
    Those of these map indexes whose instances of a mapped task are finished.

    The API gives the state of one instance, or all (execution_api/routes/task_instances.py,
    ``get_task_states``): a few are asked for one by one where there are many.
    """
    if len(among) * ROWS_PER_REQUEST < max(among, default=0):
        return {n for n in among if task_instance_state(dag_id, run_id, task_id, n) in ENDED_STATES}
    answer = task_runner.SUPERVISOR_COMMS.send(
        GetTaskStates(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id])
    )
    states: dict[str, str | None] = answer.task_states.get(run_id, {})  # type: ignore[union-attr]
    return {n for n in among if states.get(f"{task_id}_{n}") in ENDED_STATES}


def is_mapped(dag_id: str, run_id: str, task_id: str) -> bool:
    """Whether a task of a run, of whose DAG nothing else is known here, has instances with map indexes."""
    answer = task_runner.SUPERVISOR_COMMS.send(
        GetTaskStates(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id])
    )
    return task_id not in answer.task_states.get(run_id, {})  # type: ignore[union-attr]


def set_map_index_label(context: Any, label: str) -> None:
    """
    Name the running instance in Airflow's UI, now and when it ends.

    The task runner renders ``map_index_template`` of the context once more at the end
    (airflow/sdk/execution_time/task_runner.py, ``_render_map_index``).
    """
    context["map_index_template"] = label
    context["ti"].rendered_map_index = label
    task_runner.SUPERVISOR_COMMS.send(SetRenderedMapIndex(rendered_map_index=label))


async def ensure_sync_calls_work_here() -> None:
    """
    Let ``async`` code call Airflow's sync functions in this task, as it can in a trigger.

    The triggerer does this for the task of each trigger, and for no task that a trigger starts
    (airflow/jobs/triggerer_job_runner.py, ``run_trigger``).
    """
    if os.environ.get("AIRFLOW_DISABLE_GREENBACK_PORTAL", "").lower() != "true":
        import greenback  # only where a trigger runs

        await greenback.ensure_portal()


def is_map_length_refusal(error: Exception) -> bool:
    """
    Whether the API refused an XCom because of ``[core] max_map_length``.

    The reason is named in the answer (execution_api/routes/xcoms.py, ``set_xcom``), which reaches a
    task as the detail of an ``AirflowRuntimeError``, and ``dag.test()`` as an HTTP error.
    """
    response = getattr(error, "response", None)
    return MAP_LENGTH_REFUSAL in f"{error} {getattr(response, 'text', '')}"
