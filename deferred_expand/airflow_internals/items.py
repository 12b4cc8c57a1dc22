"""What an item sees of Airflow where many share one task instance, and how they share its supervisor."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import attrs
import structlog
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.bases.decorator import DecoratedMappedOperator
from airflow.sdk.bases.operator import BaseOperator, ExecutorSafeguard
from airflow.sdk.definitions.asset import AssetAliasEvent, AssetUniqueKey
from airflow.sdk.definitions.param import process_params
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.callback_runner import create_executable_runner
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from pydantic import Field

from deferred_expand.airflow_internals.contexts import enter_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping

    from airflow.sdk.definitions.mappedoperator import MappedOperator


_ITEM = "item"
_NOT_SHOWN = "Done. Returned value not shown"  # (airflow/providers/standard/operators/python.py)


class ItemTaskInstance(RuntimeTaskInstance):
    """
    The task instance, as one of its items sees it.

    :ivar item_index: of the item, from 0.
    :ivar pushed: XComs of the item; they go with its result.
    :ivar began: when this try of the item did.
    :ivar pulled: while its templates are rendered: what was pulled for those of other items.
    """

    item_index: int = -1
    began: Any = None
    pushed: dict[str, Any] = Field(default_factory=dict)
    pulled: Any = None

    def xcom_pull(self, *args: Any, **kwargs: Any) -> Any:
        if self.pulled is None:
            return super().xcom_pull(*args, **kwargs)
        what = repr((args, sorted(kwargs.items())))
        if what not in self.pulled:
            self.pulled[what] = super().xcom_pull(*args, **kwargs)
        return deepcopy(self.pulled[what])  # an item may change what it is given

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_first_reschedule_date(self, context: Any) -> Any:
        """A sensor in reschedule mode asks, and it is the item's own, not known to Airflow."""
        return self.began


class ItemComms:
    """
    A supervisor's, for many items at once.

    Airflow's own ``asend`` lets go of its lock when it is cancelled, while a thread still reads the
    answer: whoever asks next waits for ever (airflow/sdk/execution_time/comms.py). Here an exchange is
    one thread's from beginning to end, whoever waits for it.

    :param exchange: makes a call where it blocks nobody.
    """

    def __init__(self, comms: Any, exchange: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._comms, self._exchange = comms, exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comms, name)

    def send(self, msg: Any) -> Any:
        return self._comms.send(msg)

    async def asend(self, msg: Any) -> Any:
        return await asyncio.shield(asyncio.ensure_future(self._exchange(lambda: self._comms.send(msg))))


@contextmanager
def shared_comms(exchange: Callable[[Callable[[], Any]], Awaitable[Any]]) -> Iterator[None]:
    """Have all that asks the supervisor ask as :class:`ItemComms` do."""
    # As ``set_supervisor_comms`` does it, whose module tasks do not import (.../supervisor.py).
    comms = task_runner.SUPERVISOR_COMMS
    task_runner.SUPERVISOR_COMMS = ItemComms(comms, exchange)  # type: ignore[assignment]
    try:
        yield
    finally:
        task_runner.SUPERVISOR_COMMS = comms


class SharedParts:
    """
    What takes a while to make, and is the same for all items of a task instance.

    :ivar pulled: XComs that templates ask for, those of ``.partial()``: they are asked for once.
    """

    def __init__(self, mapped: MappedOperator) -> None:
        self.jinja_env: Any = mapped.get_template_env()
        self.pulled: dict[str, Any] = {}
        self._params: dict[str, Any] | None = None

    def params_of(self, task: BaseOperator, outer: Any, *, own: bool) -> dict[str, Any]:
        """
        Each item's own copy of what is checked once, which takes longer than all the rest.

        :param own: the item was given some that others may not have.
        """
        if own or self._params is None:
            checked = process_params(outer["dag"], task, outer["dag_run"].conf, suppress_exception=False)
            if own:
                return checked
            self._params = checked
        return deepcopy(self._params)


class _ItemLog:
    """
    An operator's logger, without the line by which ``PythonOperator`` tells of each that its result is not
    shown: for thousands of items it would be most of what they cost.
    """

    __slots__ = ("_log",)

    def __init__(self, log: Any) -> None:
        self._log = log

    def info(self, event: Any, *arguments: Any, **more: Any) -> None:
        if event != _NOT_SHOWN:
            self._log.info(event, *arguments, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def make_item(
    mapped: MappedOperator,
    outer: Any,
    index: int,
    arguments: Mapping[str, Any],
    data: Collection[str],
    shared: SharedParts,
) -> tuple[BaseOperator, dict[str, Any]]:
    """
    An item's operator, rendered, and its context. This may block.

    As ``MappedOperator.render_template_fields`` does it (airflow/sdk/definitions/mappedoperator.py).

    :param outer: the context of the task instance.
    :param data: names of arguments that are no templates.
    """
    decorated = isinstance(mapped, DecoratedMappedOperator)
    task = mapped.unmap({"op_kwargs": arguments} if decorated else arguments)
    task.start_from_trigger = False
    task.execution_timeout = None  # a signal would end it, which reaches the main thread only
    if getattr(task, "show_return_value_in_logs", True) is False:
        task._cached_logger = _ItemLog(task.log)
    params = shared.params_of(task, outer, own="params" in arguments and not decorated)
    context = _context_of(outer, task, index, params)
    context["ti"].pulled = shared.pulled
    task._do_render_template_fields(
        parent=task,
        template_fields=mapped.template_fields,
        context=context,  # type: ignore[arg-type]
        jinja_env=shared.jinja_env,
        seen_oids={id(arguments[name]) for name in data},
    )
    context["ti"].pulled = None
    return task, context


def _context_of(outer: Any, task: BaseOperator, index: int, params: Any) -> dict[str, Any]:
    ti = outer["ti"]
    own = {"task": task, "item_index": index, "pushed": {}, "began": datetime.now(tz=timezone.utc)}
    item = ItemTaskInstance.model_construct(**{**ti.__dict__, **own})
    item.__pydantic_private__ = dict(ti.__pydantic_private__ or {})
    context = dict(outer)
    context |= {
        "ti": item,
        "task_instance": item,
        "task": task,
        "params": params,
        "outlet_events": OutletEventAccessors(),
    }
    item._cached_template_context = context  # type: ignore[assignment]
    return context


def enter_item(task: BaseOperator, context: dict[str, Any]) -> None:
    """Be in an item, for this task of the event loop, or this call in a thread, and all that they call."""
    enter_context(context)
    ExecutorSafeguard.tracker.set(task)
    # Airflow adds it to each line that is logged (airflow/_shared/logging/structlog.py).
    structlog.contextvars.bind_contextvars(**{_ITEM: context["ti"].item_index})


def item_here() -> int | None:
    """The item that the caller is in."""
    found: int | None = structlog.contextvars.get_contextvars().get(_ITEM)
    return found


def call_hooks_before(task: BaseOperator, context: Any) -> None:
    """What ``_execute_task`` calls before an operator's own (airflow/sdk/execution_time/task_runner.py)."""
    if task._pre_execute_hook is not None:
        _runner(task, context, task._pre_execute_hook).run(context)
    if getattr(task.pre_execute, "__func__", None) is not BaseOperator.pre_execute:
        _runner(task, context, task.pre_execute).run(context)


def call_hooks_after(task: BaseOperator, context: Any, result: Any) -> None:
    """The same for what comes after it."""
    if task._post_execute_hook is not None:
        _runner(task, context, task._post_execute_hook).run(context, result)
    if getattr(task.post_execute, "__func__", None) is not BaseOperator.post_execute:
        _runner(task, context, task.post_execute).run(context)


def _runner(task: BaseOperator, context: Any, hook: Callable[..., Any]) -> Any:
    return create_executable_runner(hook, context["outlet_events"], logger=task.log)


async def execute_async(task: BaseOperator, context: Any) -> Any:
    """Of one that :func:`is_async`."""
    return await task.aexecute(context)  # type: ignore[attr-defined]


def is_async(task: BaseOperator) -> bool:
    """Whether it is executed on an event loop, by ``aexecute``."""
    return hasattr(task, "aexecute") and bool(getattr(task, "is_async", False))


def pack_events(context: Any) -> list[dict[str, Any]]:
    """What an item has told of its outlets, as JSON."""
    return [
        {
            "asset": [key.name, key.uri] if isinstance(key, AssetUniqueKey) else [key.name],
            "extra": accessor.extra,
            "aliased": [attrs.asdict(event) for event in accessor.asset_alias_events],
            "partition_keys": sorted(getattr(accessor, "partition_keys", ())),
        }
        for key, accessor in context["outlet_events"]._dict.items()
    ]


def tell_events(context: Any, packed: list[dict[str, Any]]) -> None:
    """Have the task instance tell what an item has told."""
    for event in packed:
        name, *uri = event["asset"]
        accessor = context["outlet_events"][Asset(name=name, uri=uri[0]) if uri else AssetAlias(name=name)]
        accessor.extra.update(event["extra"])
        if event["partition_keys"]:
            accessor.partition_keys.update(event["partition_keys"])
        for aliased in event["aliased"]:
            key = AssetUniqueKey(**aliased["dest_asset_key"])
            accessor.asset_alias_events.append(AssetAliasEvent(**{**aliased, "dest_asset_key": key}))
