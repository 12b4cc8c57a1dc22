"""The template context of a task, for another task of its run and on its way to the triggerer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from airflow.sdk.api.datamodels._generated import DagRun
from airflow.sdk.bases.decorator import KeywordParameters
from airflow.sdk.definitions._internal.contextmanager import _CURRENT_CONTEXT
from airflow.sdk.definitions.param import process_params
from airflow.sdk.execution_time.context import ConnectionAccessor, MacrosAccessor, VariableAccessor
from airflow.sdk.plugins_manager import integrate_macros_plugins

_CARRIED = (
    "run_id", "params", "logical_date", "ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz",
    "data_interval_start", "data_interval_end", "partition_key", "partition_date", "task_reschedule_count",
    "task_instance_key_str",
)  # fmt: skip
"""What is known when a task starts (airflow/sdk/execution_time/task_runner.py), and costs no request."""


def context_of(task: Any, context: Any) -> dict[str, Any]:
    """
    The context as another, unmapped task of the same run would have it.

    What depends on the task is its own (airflow/sdk/execution_time/task_runner.py,
    ``RuntimeTaskInstance.get_template_context``), the rest is shared.
    """
    ti = copy.copy(context["ti"])
    ti.task, ti.task_id, ti.map_index = task, task.task_id, -1
    dag_run, name = context.get("dag_run"), context.get("ds_nodash", context["run_id"])
    conf = dag_run.conf if dag_run is not None else None
    return {
        **context,
        "task": task,
        "ti": ti,
        "task_instance": ti,
        "task_instance_key_str": f"{task.dag_id}__{task.task_id}__{name}",
        "params": process_params(task.dag, task, conf, suppress_exception=False),
        "inlets": task.inlets,
        "outlets": task.outlets,
    }


def carry(context: Any) -> dict[str, Any]:
    """What of a context can be taken along as data."""
    carried = {name: context[name] for name in _CARRIED if context.get(name) is not None}
    if context.get("params") is not None:
        carried["params"] = dict(context["params"])
    dag_run = context.get("dag_run")
    if isinstance(dag_run, DagRun):
        # What assets have told it is rarely asked for, and may be large.
        carried["dag_run"] = {**dag_run.model_dump(mode="json"), "consumed_asset_events": []}
    return carried


def restore(carried: dict[str, Any], task: Any = None) -> dict[str, Any]:
    """
    The context in the triggerer: what was carried, and what is asked of Airflow when it is read.

    :param task: the unmapped one, where its DAG is loaded.
    """
    integrate_macros_plugins()
    context: dict[str, Any] = {
        **carried,
        "macros": MacrosAccessor(),
        "conn": ConnectionAccessor(),
        "var": {
            "json": VariableAccessor(deserialize_json=True),
            "value": VariableAccessor(deserialize_json=False),
        },
    }
    if "dag_run" in carried:
        context["dag_run"] = DagRun.model_validate(carried["dag_run"])
    if task is not None:
        context |= {"task": task, "dag": task.dag, "inlets": task.inlets, "outlets": task.outlets}
    return context


def keyword_arguments(
    function: Callable[..., Any], positional: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """What of a context and arguments a function takes, as a ``@task`` function gets it."""
    return dict(KeywordParameters.determine(function, positional, named).unpacking())


_context_here: ContextVar[Any] = ContextVar("deferred_expand.context")


def enter_context(context: Any) -> None:
    """Have ``get_current_context()`` give it, in this task of the event loop and threads that it calls."""
    if not any(isinstance(entered, _ContextHere) for entered in _CURRENT_CONTEXT):
        _CURRENT_CONTEXT.insert(0, _ContextHere())  # type: ignore[arg-type]
    _context_here.set(context)


@contextmanager
def contexts_apart(outer: Any) -> Iterator[None]:
    """
    Let code within have a context of its own, by :func:`enter_context`, in a task that has one for all.

    :param outer: of what enters none.
    """
    here = _ContextHere()
    token = _context_here.set(outer)
    _CURRENT_CONTEXT.append(here)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _CURRENT_CONTEXT.remove(here)  # type: ignore[arg-type]
        _context_here.reset(token)


class _ContextHere(MutableMapping[str, Any]):
    """
    The context of the stream, or item, that asks. Airflow keeps one for a whole process, as tasks have
    one each (airflow/sdk/definitions/_internal/contextmanager.py); streams and items share one.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def _context(self) -> Any:
        try:
            return _context_here.get()
        except LookupError:
            raise RuntimeError("Current context was requested but no context was found") from None

    def __getitem__(self, key: str) -> Any:
        return self._context()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._context()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._context()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._context())

    def __len__(self) -> int:
        return len(self._context())
