"""A mapped task whose instances each run many items."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from deferred_expand.airflow_internals.dealing import ReplacedMapping, dealt_options, items_of_instances
from deferred_expand.airflow_internals.mapping import (
    DecoratedMappedOperator,
    MappedOperator,
    become,
    is_expanded_over,
    make_unmapped,
)
from deferred_expand.airflow_internals.sdk import PlainXComArg
from deferred_expand.airflow_internals.tasks import current_dag_id
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import DefinitionError
from deferred_expand.operators.mapped import (
    OverStream,
    StreamDecoratedMappedOperator,
    StreamMappedOperator,
    stream_references,
)
from deferred_expand.workers.item_results import RETURNED, IteratedResults
from deferred_expand.workers.items import read_log
from deferred_expand.workers.iterable import IterableOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.airflow_internals.sdk import AbstractOperator
    from deferred_expand.workers.iterate_options import IterateOptions

# Until Airflow's own signal, which also ends what blocks the items' loop, which ends itself by then.
BLOCKED_FOR = timedelta(seconds=10)

# What is the instance's, and not each item's.
_INSTANCE_ARGUMENTS = (
    "do_xcom_push", "email", "email_on_failure", "email_on_retry", "inlets", "max_retry_delay",
    "on_execute_callback", "on_failure_callback", "on_retry_callback", "on_skipped_callback",
    "on_success_callback", "outlets", "owner", "pool", "queue", "retries", "retry_delay",
    "retry_exponential_backoff", "retry_policy", "trigger_rule",
)  # fmt: skip


@attrs.define
class IteratedOutput(PlainXComArg):
    """
    What the items of a task have returned, in their order, for a task that reads it.

    :raises DefinitionError: it is mapped over.
    """

    def resolve(self, context: Any) -> IteratedResults:
        task: Any = self.operator
        run_id = context["ti"].run_id
        where = {"dag_id": task.dag_id, "task_id": task.task_id, "run_id": run_id}
        instances, in_turn = task.instances(run_id)
        return IteratedResults(where, instances, in_turn=in_turn, key=self.key)

    def __getitem__(self, key: str) -> IteratedOutput:
        """Another XCom of the items."""
        return IteratedOutput(operator=self.operator, key=key)


class _Iterated(ReplacedMapping):
    __slots__ = ()

    def make_instance(self) -> IterableOperator:
        mapped: MappedOperator = self  # type: ignore[assignment]
        options: IterateOptions = dealt_options(mapped)
        return make_unmapped(
            mapped,
            IterableOperator,
            _INSTANCE_ARGUMENTS,
            mapped=mapped,
            over=items_of_instances(mapped),
            options=options,
            execution_timeout=options.instance_timeout and options.instance_timeout + BLOCKED_FOR,
        )

    def instances(self, run_id: str) -> tuple[Sequence[int], bool]:
        """Map indexes of those that run items, and whether the items are dealt out one by one."""
        options: IterateOptions = dealt_options(self)  # type: ignore[arg-type]
        return range(options.instances or 0), True

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


class _IteratedStream(_Iterated):
    """Index 0 is the stream head, and each other instance has a batch."""

    __slots__ = ()

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        if context["ti"].map_index == 0:
            OverStream.render_template_fields(self, context, jinja_env)  # type: ignore[arg-type]
        else:
            super().render_template_fields(context, jinja_env)

    def instances(self, run_id: str) -> tuple[Sequence[int], bool]:
        ((_, reference),) = stream_references(self)  # type: ignore[arg-type]
        log = read_log(StreamStore(reference.stream.definition.ref(run_id)))
        return range(1, 1 + log.items), False


class IteratedStreamOperator(_IteratedStream, StreamMappedOperator):
    """A classic operator, run once for each item of a stream, a batch in each instance."""


class IteratedStreamDecoratedOperator(_IteratedStream, StreamDecoratedMappedOperator):
    """A ``@task`` function, run once for each item of a stream, a batch in each instance."""


def iterates(mapped: MappedOperator) -> bool:
    """Whether its instances run many items each."""
    return dealt_options(mapped) is not None


def map_over_stream(mapped: MappedOperator) -> None:
    if iterates(mapped):
        become(mapped, IteratedStreamOperator, IteratedStreamDecoratedOperator)
    else:
        become(mapped, StreamMappedOperator, StreamDecoratedMappedOperator)
