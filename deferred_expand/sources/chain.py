"""A deferrable operator as a source: its chain of hops, each from a deferral to the next."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from deferred_expand.airflow_internals.sdk import (
    DEFERRAL_FAILED,
    BaseOperator,
    BaseTrigger,
    TaskDeferred,
    XCom,
    import_string,
)
from deferred_expand.airflow_internals.tasks import executing
from deferred_expand.exceptions import CursorNotSerializable, NotInContext
from deferred_expand.sources.adapters import adapter_for
from deferred_expand.sources.plain_json import read, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deferred_expand.streams.page import JSON
    from deferred_expand.streams.ref import StreamRef

HOP_VERSION = 2


@dataclass(frozen=True)
class Hop:
    """
    What a chain does next: walk the trigger to its event, call the method with it.

    As a cursor it is all that is needed to go on in another process.

    :param xcoms: what the operator has pushed for itself, by key.
    """

    trigger: tuple[str, dict[str, Any]]
    method: str
    kwargs: dict[str, Any]
    timeout: float | None = None
    xcoms: dict[str, Any] = field(default_factory=dict)

    def to_cursor(self) -> JSON:
        """JSON; there may be credentials in it, as in any cursor."""
        path, arguments = self.trigger
        try:
            state = {
                "trigger": [path, arguments],
                "method": self.method,
                "kwargs": self.kwargs,
                "timeout": self.timeout,
                "xcoms": self.xcoms,
            }
            return {"version": HOP_VERSION, "hop": write(state)}
        except TypeError as error:
            raise CursorNotSerializable(
                f"the chain cannot be kept between two hops: {error}. What {path} or "
                f"{self.method}() is given must be serializable; register_source_adapter() can "
                "take out what the next hop does not need"
            ) from error

    @classmethod
    def from_cursor(cls, cursor: dict[str, Any]) -> Hop:
        if cursor.get("version") != HOP_VERSION:
            raise ValueError(f"this release cannot go on with a chain of version {cursor.get('version')}")
        state = read(cursor["hop"])
        return cls(**{**state, "trigger": tuple(state["trigger"])})

    def until(self, moment: float | None) -> Hop:
        """The same, with what is left of its time-out; the moment is in seconds since the epoch."""
        return replace(self, timeout=None if moment is None else max(0.0, moment - time.time()))

    def find_trigger(self) -> type[BaseTrigger]:
        """Import its class, which may take a while."""
        found: type[BaseTrigger] = import_string(self.trigger[0])
        return found

    def make_trigger(self) -> BaseTrigger:
        return self.find_trigger()(**self.trigger[1])


@dataclass(frozen=True)
class HopResult:
    """
    What an operator's method did.

    :param next: ``None``: it returned, and the chain is over.
    """

    items: list[Any]
    next: Hop | None


class ChainTaskInstance:
    """
    The task instance that an operator within a chain sees.

    What it pushes stays here, and is what the hop gives; its own XComs are those that it has kept,
    other tasks' are read as usual.
    """

    def __init__(
        self, ref: StreamRef, task: BaseOperator | None, try_number: int, kept: dict[str, Any]
    ) -> None:
        self.dag_id: str = ref.dag_id
        self.run_id: str = ref.run_id
        self.task_id: str = ref.task_id if task is None else task.task_id
        self.map_index = -1
        self.try_number = try_number
        self.task = task
        self.kept = kept
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(
        self,
        task_ids: Any = None,
        dag_id: str | None = None,
        key: str = "return_value",
        default: Any = None,
        map_indexes: Any = None,
        **_: Any,
    ) -> Any:
        if task_ids in (None, self.task_id, [self.task_id]):
            return self.kept.get(key, default)
        one = [task_ids] if isinstance(task_ids, str) else list(task_ids)
        index = map_indexes if isinstance(map_indexes, int) else -1
        values = [
            XCom.get_one(
                key=key, task_id=task_id, dag_id=dag_id or self.dag_id, run_id=self.run_id, map_index=index
            )
            for task_id in one
        ]
        values = [default if value is None else value for value in values]
        return values[0] if isinstance(task_ids, str) else values


class SourceContext(dict[str, Any]):
    """The context of an operator that is a source: what is missing is told by name."""

    def __missing__(self, key: str) -> NoReturn:
        raise NotInContext(
            f"{key!r} of the context is not to be had where a stream is walked (task "
            f"{self['ti'].task_id!r}). Give the source what it needs of it as an argument, by a template"
        )


def source_context(
    known: Mapping[str, Any],
    ref: StreamRef,
    try_number: int,
    task: BaseOperator | None,
    kept: dict[str, Any] | None = None,
) -> SourceContext:
    """
    :param known: of the unmapped task's context.
    :param task: what the source sees as its own.
    :param kept: what it has pushed for itself before.
    """
    ti = ChainTaskInstance(ref, task, try_number, kept or {})
    own = {"ti": ti, "task_instance": ti, "run_id": ref.run_id}
    return SourceContext({"params": {}, **known, **own})


class OperatorChain:
    """
    The sync halves of an operator's hops, each on an instance of its own, as on workers. They block.

    :param context: as the unmapped task has it, or what of it was taken along.
    :param kwargs: the operator's arguments, rendered; ``task_id`` is the stream's where it is not
        given, ``deferrable`` is true where the operator can be asked for it.
    """

    def __init__(
        self,
        operator: type[BaseOperator],
        kwargs: Mapping[str, Any],
        ref: StreamRef,
        try_number: int,
        context: Mapping[str, Any],
    ) -> None:
        self.adapter = adapter_for(operator)
        self._class = operator
        self._arguments = {"task_id": ref.task_id, **kwargs}
        if "deferrable" in operator_parameters(operator):
            self._arguments.setdefault("deferrable", True)
        self._ref = ref
        self._try_number = try_number
        self._context = context

    def can_read(self) -> bool:
        """Whether :meth:`read` gives what the operator, with these arguments, would."""
        return self.adapter.reads and self.adapter.can_read(self._make({})[0])

    def read(self) -> Iterator[list[Any]]:
        """Pages of an operator that does not defer, where the adapter ``reads``."""
        return self.adapter.read(*self._make({}))

    def begin(self) -> HopResult:
        """The first half of the first hop: ``execute``."""
        operator, context = self._make({})
        return self._run(operator, context, lambda: operator.execute(context))

    def resume(self, hop: Hop, event: Any) -> HopResult:
        """The second half of a hop, to the next deferral or to the end."""
        operator, context = self._make(hop.xcoms)
        arguments = {**hop.kwargs, "event": event}
        return self._run(operator, context, lambda: operator.resume_execution(hop.method, arguments, context))

    def fail(self, reason: str, traceback: list[str] | None) -> NoReturn:
        """Tell the operator that its trigger failed, as Airflow does; raises what it raises."""
        operator, context = self._make({})
        operator.resume_execution(DEFERRAL_FAILED, {"error": reason, "traceback": traceback}, context)
        raise RuntimeError(f"the operator has taken no notice of its trigger's failure: {reason}")

    def end(self, over: Any) -> list[Any]:
        """What a trigger that has ended the task gives."""
        found: list[Any] = over.items
        return found

    def _make(self, kept: dict[str, Any]) -> tuple[BaseOperator, Any]:
        operator = self._class(**self._arguments)
        self.adapter.prepare(operator)
        context: Any = source_context(
            {**self._context, "task": operator}, self._ref, self._try_number, operator, kept
        )
        return operator, context

    def _run(self, operator: BaseOperator, context: Any, call: Callable[[], Any]) -> HopResult:
        pushed = context["ti"].pushed
        try:
            with executing(operator):
                result = call()
        except TaskDeferred as deferred:
            items = self.adapter.of_deferral(operator, context, deferred, pushed)
            kept = {key: pushed[key] for key in self.adapter.kept_xcoms if key in pushed}
            return HopResult(items, hop_of(deferred, {**context["ti"].kept, **kept}))
        return HopResult(self.adapter.of_result(operator, context, result, pushed), None)


def hop_of(deferred: TaskDeferred, xcoms: dict[str, Any]) -> Hop:
    """What an operator that defers asks for."""
    timeout = deferred.timeout
    return Hop(
        trigger=deferred.trigger.serialize(),
        method=deferred.method_name,
        kwargs=dict(deferred.kwargs or {}),
        timeout=timeout.total_seconds() if hasattr(timeout, "total_seconds") else timeout,
        xcoms=xcoms,
    )


def operator_parameters(operator: type[BaseOperator]) -> set[str]:
    """Names of what the operator's class, and the classes it derives from, can be given."""
    own = operator.__mro__[: operator.__mro__.index(BaseOperator)]
    return {name for cls in own for name in inspect.signature(cls).parameters}
