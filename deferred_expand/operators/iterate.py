"""``iterate``: many items in one task instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from deferred_expand.airflow_internals.dealing import (
    ReplacedMapping,
    deal,
    dealt_input,
    is_mappable_task,
    items_of_dicts,
    items_of_lists,
    operator_class_of,
)
from deferred_expand.airflow_internals.mapping import (
    DecoratedMappedOperator,
    MappedOperator,
    become,
    is_expanded_over,
    make_unmapped,
)
from deferred_expand.airflow_internals.sdk import PlainXComArg
from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.airflow_internals.tasks import current_dag_id
from deferred_expand.exceptions import DefinitionError
from deferred_expand.operators.reference import StreamReference
from deferred_expand.workers.item_results import RETURNED, IteratedResults
from deferred_expand.workers.iterable import IterableOperator
from deferred_expand.workers.iterate_options import IterateOptions

if TYPE_CHECKING:
    from datetime import timedelta

    from deferred_expand.airflow_internals.sdk import AbstractOperator
    from deferred_expand.walking.retry import SourceRetry

# What is the instance's, and not each item's.
_INSTANCE_ARGUMENTS = (
    "do_xcom_push", "email", "email_on_failure", "email_on_retry", "inlets", "max_retry_delay",
    "on_execute_callback", "on_failure_callback", "on_retry_callback", "on_skipped_callback",
    "on_success_callback", "outlets", "owner", "pool", "queue", "retries", "retry_delay",
    "retry_exponential_backoff", "retry_policy", "trigger_rule",
)  # fmt: skip
# Operators whose end means something to the tasks beside them, by module and name.
_REFUSED = {
    "airflow.sdk.bases.skipmixin.SkipMixin": "it skips what is downstream, which one item cannot",
    "airflow.sdk.bases.branch.BaseBranchOperator": "it skips what is downstream, which one item cannot",
    "airflow.providers.standard.operators.hitl.HITLOperator": "a person answers one question a task instance",
    "airflow.providers.standard.operators.trigger_dagrun.TriggerDagRunOperator": (
        "Airflow starts one run for a task instance"
    ),
}


class iterate:
    """
    Run a task once for each of many items, in one task instance or a few.

    What an item is done with is written down while it runs, in Airflow's task state store: a new try,
    or a clear of what has failed, runs what is not done, and only that. It needs Airflow 3.3.

    What the task has of ``execution_timeout``, templates, ``do_xcom_push`` holds for each item; its
    retries, pool, queue, callbacks and trigger rule for the instance. A pool counts one slot for
    ``concurrency`` items.

    :param what: a ``@task`` function, or an operator's ``.partial()``.
    :param concurrency: items that run at a time, in each instance. ``async`` and deferrable ones share
        an event loop, all others have a thread each.
    :param instances: that the items are dealt out to.
    :param tolerate: items of an instance that may fail: a number, or a share like ``"5%"``.
    :param retry: of an item that failed by a hiccup, within a try of the instance.
    :param checkpoint: seconds; what has ended for longer is never run again by a retry. With 0 an item
        counts as running until its end is written down.
    :param instance_timeout: how long a try of an instance may take.
    :raises DefinitionError: naming the DAG, the task and the remedy.
    """

    def __init__(
        self,
        what: Any,
        *,
        concurrency: int = 16,
        instances: int = 1,
        tolerate: int | str = 0,
        retry: SourceRetry | None = None,
        checkpoint: float = 1.0,
        instance_timeout: timedelta | None = None,
    ) -> None:
        self._what = what
        if not is_mappable_task(what):
            raise DefinitionError(
                f"{self._where}: iterate() takes a @task function, without a call, or an operator's "
                f".partial(), not {what!r}"
            )
        self._options = IterateOptions(
            concurrency, instances, tolerate, retry, checkpoint, instance_timeout=instance_timeout
        )
        try:
            self._options.check()
        except ValueError as error:
            raise DefinitionError(f"{self._where}: {error}") from error
        self._refuse()

    def over(self, **lists: Any) -> Any:
        """As ``.expand()``: each item is a combination of the lists' values, the last one's fastest."""
        for name, value in lists.items():
            self._refuse_stream(name, value)
        return self._deal(items_of_lists(self._what, lists), strict=False)

    def over_kwargs(self, kwargs: Any) -> Any:
        """As ``.expand_kwargs()``: each item is a dict of arguments."""
        self._refuse_stream("kwargs", kwargs)
        return self._deal(items_of_dicts(kwargs), strict=True)

    def _deal(self, items: Any, *, strict: bool) -> Any:
        mapped, returned = deal(self._what, items, self._options, self._options.instances, strict=strict)
        become(mapped, IteratedOperator, IteratedDecoratedOperator)
        return returned if returned is mapped else mapped.output

    @property
    def _where(self) -> str:
        """For messages."""
        kwargs = getattr(self._what, "kwargs", {})
        name = kwargs.get("task_id") or getattr(getattr(self._what, "function", None), "__name__", None)
        return f"DAG {current_dag_id()!r}, task {name!r}"

    def _refuse(self) -> None:
        operator = operator_class_of(self._what)
        for cls in operator.__mro__:
            reason = _REFUSED.get(f"{cls.__module__}.{cls.__qualname__}")
            if reason:
                raise DefinitionError(
                    f"{self._where}: {operator.__name__} cannot be iterated, as {reason}. Let it follow the "
                    "task that iterates, or use .expand()"
                )
        if not has_state_store():
            raise DefinitionError(
                f"{self._where}: iterate() needs Airflow 3.3, whose task state store keeps what is done; use "
                ".expand()"
            )

    def _refuse_stream(self, name: str, value: Any) -> None:
        if isinstance(value, StreamReference):
            raise DefinitionError(
                f"{self._where}: {name}= is a stream, which cannot be iterated over yet; use .expand()"
            )


@attrs.define
class IteratedOutput(PlainXComArg):
    """
    What the items of a task have returned, in their order, for a task that reads it.

    :raises DefinitionError: it is mapped over.
    """

    def resolve(self, context: Any) -> IteratedResults:
        task, run_id = self.operator, context["ti"].run_id
        where = {"dag_id": task.dag_id, "task_id": task.task_id, "run_id": run_id}
        options: IterateOptions = dealt_input(self.operator).options  # type: ignore[arg-type]
        return IteratedResults(where, options.instances, self.key)

    def __getitem__(self, key: str) -> IteratedOutput:
        """Another XCom of the items."""
        return IteratedOutput(operator=self.operator, key=key)


class _Iterated(ReplacedMapping):
    __slots__ = ()

    def make_instance(self) -> IterableOperator:
        mapped: MappedOperator = self  # type: ignore[assignment]
        dealt = dealt_input(mapped)
        options: IterateOptions = dealt.options
        return make_unmapped(
            mapped,
            IterableOperator,
            _INSTANCE_ARGUMENTS,
            mapped=mapped,
            over=dealt.items,
            options=options,
            execution_timeout=options.instance_timeout,
        )

    @property
    def output(self) -> IteratedOutput:
        return IteratedOutput(operator=self, key=RETURNED)  # type: ignore[arg-type]

    def update_relative(self, other: Any, upstream: bool = True, edge_modifier: Any = None) -> None:
        super().update_relative(other, upstream, edge_modifier)  # type: ignore[misc]
        if not upstream:
            self._refuse_mapping(other)

    def _refuse_mapping(self, other: AbstractOperator) -> None:
        mapped: MappedOperator = self  # type: ignore[assignment]
        group = getattr(other, "get_closest_mapped_task_group", lambda: None)()
        expanded: list[Any] = [other] if isinstance(other, MappedOperator) else []
        if any(is_expanded_over(one, mapped) for one in [*expanded, *([group] if group else [])]):  # type: ignore[arg-type]
            raise DefinitionError(
                f"DAG {current_dag_id()!r}, task {mapped.task_id!r}: the scheduler does not know its results "
                "one by one, and nothing can be mapped over them. Read them in a task, "
                "`@task def results(of): return list(of)`, and map over what it returns, or iterate over them"
            )


class IteratedOperator(_Iterated, MappedOperator):
    """A classic operator, run once for each item."""


class IteratedDecoratedOperator(_Iterated, DecoratedMappedOperator):
    """A ``@task`` function, run once for each item."""
