"""``iterate``: many items in one task instance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.dealing import (
    batch_by_batch,
    deal,
    is_mappable_task,
    items_of_dicts,
    items_of_lists,
    operator_class_of,
)
from deferred_expand.airflow_internals.mapping import become
from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.airflow_internals.tasks import current_dag_id
from deferred_expand.exceptions import DefinitionError
from deferred_expand.operators.iterated import IteratedDecoratedOperator, IteratedOperator
from deferred_expand.operators.reference import StreamReference
from deferred_expand.workers.iterate_options import IterateOptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from deferred_expand.walking.retry import SourceRetry

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
    :param instances: that the items of a list are dealt out to; 1 without.
    :param tolerate: items of an instance that may fail: a number, or a share like ``"5%"``.
    :param retry: of an item that failed by a hiccup, within a try of the instance.
    :param checkpoint: seconds; what has ended for longer is never run again by a retry. With 0 an item
        counts as running until its end is written down.
    :param instance_timeout: how long a try of an instance may take.
    :param limits_interval: seconds, at most, after which an instance that is deferred, as all its items
        wait in deferrals of theirs, obeys limits that a person has changed.
    :raises DefinitionError: naming the DAG, the task and the remedy.
    """

    def __init__(
        self,
        what: Any,
        *,
        concurrency: int = 16,
        instances: int | None = None,
        tolerate: int | str = 0,
        retry: SourceRetry | None = None,
        checkpoint: float = 1.0,
        instance_timeout: timedelta | None = None,
        limits_interval: float = 300.0,
    ) -> None:
        self._what = what
        if not is_mappable_task(what):
            raise DefinitionError(
                f"{self._where}: iterate() takes a @task function, without a call, or an operator's "
                f".partial(), not {what!r}"
            )
        self._options = IterateOptions(
            concurrency, instances, tolerate, retry, checkpoint, instance_timeout, limits_interval
        )
        try:
            self._options.check()
        except ValueError as error:
            raise DefinitionError(f"{self._where}: {error}") from error
        self._refuse()

    def over(self, **lists: Any) -> Any:
        """
        As ``.expand()``: each item is a combination of the lists' values, the last one's fastest.

        Over a stream there is an instance for each of its batches.
        """
        return self._over(items_of_lists(self._what, lists), lists.values(), strict=False)

    def over_kwargs(self, kwargs: Any) -> Any:
        """As ``.expand_kwargs()``: each item is a dict of arguments."""
        return self._over(items_of_dicts(kwargs), [kwargs], strict=True)

    def _over(self, items: Any, values: Iterable[Any], *, strict: bool) -> Any:
        streams = [value for value in values if isinstance(value, StreamReference)]
        if any(reference.unit.is_window for reference in streams):
            raise DefinitionError(
                f"{self._where}: windows are not items: iterate in the DAG that works on a window, over the "
                "output of its StreamWindow"
            )
        if streams:
            return self._over_stream(items, strict=strict)
        options = replace(self._options, instances=self._options.instances or 1)
        mapped, returned = deal(self._what, items, options, options.instances or 1, strict=strict)
        become(mapped, IteratedOperator, IteratedDecoratedOperator)
        return returned if returned is mapped else mapped.output

    def _over_stream(self, items: Any, *, strict: bool) -> Any:
        if self._options.instances is not None:
            raise DefinitionError(
                f"{self._where}: instances= deals out a list; of a stream there is an instance for each "
                "batch, whose size is batch_size= of the stream"
            )
        mapped, returned = batch_by_batch(self._what, items, self._options, strict=strict)
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
