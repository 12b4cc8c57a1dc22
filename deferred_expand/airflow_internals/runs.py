"""Runs of other DAGs, as a task or a trigger asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    GetDagRun,
    GetDagRunState,
    GetPreviousDagRun,
    TriggerDagRun,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from airflow.sdk.api.datamodels._generated import DagRun

__all__ = [
    "BaseOperatorLink",
    "dag_run",
    "dag_run_state",
    "run_again",
    "runs_before",
    "start_run",
    "url_of_run",
]


class RunRefused(Exception):
    """Airflow does not start a run: its DAG is not there, or cannot be parsed."""


def dag_run(dag_id: str, run_id: str) -> DagRun | None:
    """As workers see it (execution_api/routes/dag_runs.py, not for triggers); ``None``: there is none."""
    try:
        found: Any = task_runner.SUPERVISOR_COMMS.send(GetDagRun(dag_id=dag_id, run_id=run_id))
    except AirflowRuntimeError as error:
        if _status(error) == 404:
            return None
        raise
    return found  # type: ignore[no-any-return]


def dag_run_state(dag_id: str, run_id: str) -> str | None:
    """``None``: there is no such run."""
    try:
        found: Any = task_runner.SUPERVISOR_COMMS.send(GetDagRunState(dag_id=dag_id, run_id=run_id))
    except AirflowRuntimeError as error:
        if _status(error) == 404:
            return None
        raise
    return str(getattr(found.state, "value", found.state))


def runs_before(dag_id: str, logical_date: datetime) -> Iterator[DagRun]:
    """The runs of a DAG before a logical date, the last one first."""
    while True:
        message = GetPreviousDagRun(dag_id=dag_id, logical_date=logical_date)
        answer: Any = task_runner.SUPERVISOR_COMMS.send(message)
        if answer is None or answer.dag_run is None:
            return
        yield answer.dag_run
        logical_date = answer.dag_run.logical_date


def start_run(dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
    """
    Have a run, if there is none with this id by now.

    :raises RunRefused: saying why.
    """
    _trigger(dag_id, run_id, conf, reset=False)


def run_again(dag_id: str, run_id: str) -> None:
    """
    Have the whole run run again, which is the only way for a worker to have any of it do so.

    :raises RunRefused: saying why.
    """
    _trigger(dag_id, run_id, {}, reset=True)


def _trigger(dag_id: str, run_id: str, conf: dict[str, Any], *, reset: bool) -> None:
    message = TriggerDagRun(dag_id=dag_id, run_id=run_id, conf=conf, reset_dag_run=reset)
    try:
        task_runner.SUPERVISOR_COMMS.send(message)
    except AirflowRuntimeError as error:
        if error.error.error == ErrorType.DAGRUN_ALREADY_EXISTS:
            return
        if _status(error) in (400, 404):
            detail: Any = (error.error.detail or {}).get("detail") or {}
            detail = detail.get("detail", detail) if isinstance(detail, dict) else detail
            raise RunRefused(
                detail.get("message", str(error)) if isinstance(detail, dict) else str(detail)
            ) from error
        raise


def _status(error: AirflowRuntimeError) -> int | None:
    status: int | None = (error.error.detail or {}).get("status_code")
    return status


def url_of_run(dag_id: str, run_id: str, task: str = "") -> str:
    """:param task: the page of one of its instances: ``"task_id"``, or ``"task_id/mapped/3"``."""
    base = conf.get("api", "base_url", fallback="/").rstrip("/")
    page = f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id)}"
    return f"{page}/tasks/{quote(task)}" if task else page
