"""
Who follows a stream: the task expanded over it, streams made of it, tasks that read it.

With one expanded task and nothing else, what shapes the stream is part of it. As soon as there is more,
its own items are unshaped, and who wants them shaped gets a task in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import DictOfListsExpandInput, MappedOperator
from deferred_expand.operators.mapped import map_over_stream, stream_references
from deferred_expand.operators.output import StreamReference
from deferred_expand.shaping.steps import split

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.sdk import AbstractOperator, BaseOperator
    from deferred_expand.operators.deferred_expand import DeferredExpandOperator
    from deferred_expand.shaping.steps import Steps


class Consumers:
    """Of one stream, as the DAG file adds them."""

    def __init__(self, stream: DeferredExpandOperator) -> None:
        self._stream = stream
        self._shared = False
        self.mapped: MappedOperator | None = None
        self.steps: Steps = ()
        """That shape the items where the stream is walked."""
        self.item_steps: Steps = ()
        """Maps that are applied where an item is read."""

    def expand(self, mapped: MappedOperator) -> DeferredExpandOperator:
        """
        A task is expanded over the stream.

        :return: the operator whose length it follows; another one than this when it is not the first.
        """
        ((name, reference),) = stream_references(mapped)
        if self.mapped is None and not (self._shared and reference.steps):
            self._take(mapped, reference.steps)
            return self._stream
        self.share()
        if self.mapped is None and not reference.steps:
            self._take(mapped, ())
            return self._stream
        return self._branch_for(mapped, name, reference)

    def shape(self, steps: Steps) -> None:
        """Give the stream itself this shape, for whoever follows it."""
        self._stream.check_steps(steps, for_followers=True)
        self.steps = steps
        self._shared = True

    def share(self) -> None:
        """Someone else follows the stream: keep its own items unshaped."""
        if self._shared:
            return
        self._shared = True
        mapped = self.mapped
        if mapped is None or not (self.steps or self.item_steps):
            return
        self.mapped, self.steps, self.item_steps = None, (), ()
        ((name, reference),) = stream_references(mapped)
        branch = self._branch_for(mapped, name, reference)
        self._stream.downstream_task_ids.discard(mapped.task_id)
        mapped.upstream_task_ids.discard(self._stream.task_id)
        branch.set_downstream(mapped)

    def _take(self, mapped: MappedOperator, steps: Steps) -> None:
        self._stream.check_steps(steps)
        self.mapped = mapped
        # An operator whose hops are a worker's has all its functions there.
        self.steps, self.item_steps = (steps, ()) if self._stream.hops_on_worker else split(steps)
        map_over_stream(mapped)

    def _branch_for(
        self, mapped: MappedOperator, name: str | None, reference: StreamReference
    ) -> DeferredExpandOperator:
        from deferred_expand.operators.branch import branch_off

        branch = branch_off(reference, str(mapped.label))
        replace_reference(mapped, name, StreamReference(operator=branch, steps=reference.steps))
        branch.consumers.expand(mapped)
        return branch


def replace_reference(mapped: MappedOperator, name: str | None, reference: StreamReference) -> None:
    """:param name: of the argument that is expanded over; ``None``: all come from it."""
    expand_input = mapped._get_specified_expand_input()
    if isinstance(expand_input, DictOfListsExpandInput):
        expand_input.value[str(name)] = reference
    else:
        expand_input.value = reference


def reads(task: AbstractOperator | BaseOperator, stream: DeferredExpandOperator) -> bool:
    """Whether a task is given the stream as an ordinary argument."""
    if isinstance(task, MappedOperator):
        return _refers(task.partial_kwargs, stream)
    return any(_refers(getattr(task, field, None), stream) for field in task.template_fields)


def _refers(value: Any, stream: DeferredExpandOperator) -> bool:
    if isinstance(value, StreamReference):
        return value.stream is stream
    if isinstance(value, dict):
        return any(_refers(inner, stream) for inner in value.values())
    return isinstance(value, (list, tuple, set)) and any(_refers(inner, stream) for inner in value)
