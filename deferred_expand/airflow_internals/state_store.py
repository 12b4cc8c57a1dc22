"""The task state store of Airflow 3.3, in which a task instance keeps what its next try shall find."""

from __future__ import annotations

from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.execution_time import context as sdk_context

VALUE_BYTES = 65_535  # airflow/config_templates/config.yml, ``[state_store] max_value_storage_bytes``


def has_state_store() -> bool:
    return hasattr(sdk_context, "TaskStateStoreAccessor")


def keeps_large_values() -> bool:
    """Whether values lie elsewhere than in the metadata database."""
    return bool(conf.get("workers", "state_store_backend", fallback=""))


def state_store_of(context: Any) -> Any:
    """
    Of the running task instance: ``get``, ``set`` and ``delete``, which block.

    It outlives retries and clears; what another try of the instance writes is refused
    (airflow/api_fastapi/execution_api/routes/task_state_store.py).
    """
    return context["task_state_store"]
