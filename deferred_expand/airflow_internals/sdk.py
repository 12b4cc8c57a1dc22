"""Airflow where DAGs are parsed, tasks run and triggers run: without the metadata database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk._shared.secrets_masker import redact, should_hide_value_for_key
from airflow.sdk.bases.decorator import DecoratedMappedOperator
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.configuration import conf
from airflow.sdk.crypto import get_fernet
from airflow.sdk.definitions._internal.abstractoperator import AbstractOperator
from airflow.sdk.definitions._internal.expandinput import (
    DictOfListsExpandInput,
    ListOfDictsExpandInput,
)
from airflow.sdk.definitions._internal.mixins import DependencyMixin, ResolveMixin
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.taskgroup import MappedTaskGroup
from airflow.sdk.definitions.xcom_arg import PlainXComArg, XComArg
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    TaskDeferred,
)
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetTaskStates, GetTICount, SetRenderedMapIndex
from airflow.sdk.execution_time.context import context_update_for_unmapped
from airflow.sdk.execution_time.xcom import XCom
from airflow.sdk.log import mask_secret
from airflow.sdk.serde import deserialize as serde_deserialize
from airflow.sdk.serde import serialize as serde_serialize
from airflow.triggers.base import (
    BaseTaskEndEvent,
    BaseTrigger,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "AbstractOperator",
    "AirflowFailException",
    "AirflowRescheduleException",
    "AirflowSkipException",
    "BaseOperator",
    "BaseTaskEndEvent",
    "BaseTrigger",
    "BaseXCom",
    "DecoratedMappedOperator",
    "DependencyMixin",
    "DictOfListsExpandInput",
    "ENDED_STATES",
    "ListOfDictsExpandInput",
    "MappedOperator",
    "MappedTaskGroup",
    "PlainXComArg",
    "ResolveMixin",
    "TaskDeferred",
    "TaskSkippedEvent",
    "TaskSuccessEvent",
    "TriggerEvent",
    "XCom",
    "XComArg",
    "conf",
    "context_update_for_unmapped",
    "count_task_instances",
    "dag_folders",
    "decrypt",
    "encrypt",
    "finished_items",
    "import_string",
    "ensure_sync_calls_work_here",
    "is_in_process",
    "is_map_length_refusal",
    "mask_secret",
    "plugins_folder",
    "redact",
    "serde_deserialize",
    "serde_serialize",
    "set_map_index_label",
    "should_hide_value_for_key",
    "task_instance_state",
]

# A DAG file is loaded under a name that no other process can import
# (airflow/dag_processing/dagbag.py and airflow/utils/file.py, get_unique_dag_module_name).
MANGLED_MODULE_PREFIX = "unusual_prefix_"

ALL_STATES_BUT_REMOVED = (
    "null", "scheduled", "queued", "running", "restarting", "deferred", "up_for_retry",
    "up_for_reschedule", "success", "failed", "skipped", "upstream_failed",
)  # fmt: skip
"""For ``GetTICount``: "null" stands for no state (execution_api/routes/task_instances.py)."""


ENDED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

# How an operator is told that its trigger failed (airflow/models/trigger.py, ``submit_failure``).
DEFERRAL_FAILED = TRIGGER_FAIL_REPR
TRIGGER_FAILURE = TriggerFailureReason.TRIGGER_FAILURE.value
TRIGGER_TIMEOUT = TriggerFailureReason.TRIGGER_TIMEOUT.value


def encrypt(text: str) -> str:
    """With the key that Airflow encrypts a trigger's arguments with (airflow/models/trigger.py)."""
    return get_fernet().encrypt(text.encode()).decode()


def decrypt(text: str) -> str:
    return get_fernet().decrypt(text.encode()).decode()


def is_in_process() -> bool:
    """
    Whether this is ``dag.test()``, where tasks and triggers run in one process.

    There the comms have no socket (airflow/sdk/execution_time/supervisor.py,
    ``InProcessSupervisorComms``).
    """
    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return type(comms).__name__ == "InProcessSupervisorComms"


def count_task_instances(
    dag_id: str, run_id: str, task_id: str, states: Collection[str] = ALL_STATES_BUT_REMOVED
) -> int:
    """How many instances of a task are in one of the states; answered in triggers too."""
    answer = task_runner.SUPERVISOR_COMMS.send(
        GetTICount(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id], states=list(states))
    )
    return int(answer.count)  # type: ignore[union-attr]


def task_instance_state(dag_id: str, run_id: str, task_id: str, map_index: int) -> str | None:
    """The state of one task instance; answered in triggers too."""
    answer = task_runner.SUPERVISOR_COMMS.send(
        GetTaskStates(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id], map_index=map_index)
    )
    states: dict[str, dict[str, str | None]] = answer.task_states  # type: ignore[union-attr]
    return next(iter(states.get(run_id, {}).values()), None)


def finished_items(dag_id: str, run_id: str, task_id: str) -> set[int]:
    """Map indexes from 1 of the finished instances of a mapped task; answered in triggers too."""
    answer = task_runner.SUPERVISOR_COMMS.send(
        GetTaskStates(dag_id=dag_id, run_ids=[run_id], task_ids=[task_id])
    )
    states: dict[str, str | None] = answer.task_states.get(run_id, {})  # type: ignore[union-attr]
    # Named after the task and the index (execution_api/routes/task_instances.py, ``get_task_states``).
    prefix = f"{task_id}_"
    finished = {name.removeprefix(prefix) for name, state in states.items() if state in ENDED_STATES}
    return {int(index) for index in finished if index.isdecimal() and index != "0"}


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
        import greenback

        await greenback.ensure_portal()


def is_map_length_refusal(error: Exception) -> bool:
    """
    Whether the API refused an XCom because of ``[core] max_map_length``.

    The reason is named in the answer (execution_api/routes/xcoms.py, ``set_xcom``), which reaches a
    task as the detail of an ``AirflowRuntimeError``, and ``dag.test()`` as an HTTP error.
    """
    response = getattr(error, "response", None)
    return "unmappable_return_value_length" in f"{error} {getattr(response, 'text', '')}"


def plugins_folder() -> str:
    """On ``sys.path`` in every component (airflow/settings.py)."""
    return os.path.realpath(str(conf.get("core", "plugins_folder")))


def dag_folders() -> list[str]:
    """Folders that are on ``sys.path`` where DAG files are parsed, but not in a triggerer."""
    folders = [conf.get("core", "dags_folder", fallback="")]
    bundles = conf.getjson("dag_processor", "dag_bundle_config_list", fallback=None) or []
    folders += [str(bundle.get("kwargs", {}).get("path") or "") for bundle in bundles]
    folders.append(conf.get("dag_processor", "dag_bundle_storage_path", fallback="") or "")
    return [os.path.realpath(folder) for folder in folders if folder]
