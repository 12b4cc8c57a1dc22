"""What is told of a stream to those who look at what its task has returned, and at streams."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deferred_expand.definition import StreamDefinition


def describe_stream(definition: StreamDefinition) -> dict[str, Any]:
    """As the unmapped task returns it."""
    described = {"stream_of": str(definition.source), "mapped_task": definition.mapped_task_id}
    return described if definition.group is None else {**described, "head": definition.group.head_task_id}


def record_of(definition: StreamDefinition, waiter: tuple[str, int]) -> dict[str, Any]:
    """
    As it is written down for pages and commands; :class:`~deferred_expand.overview.stream.StreamRecord`
    reads it.

    :param waiter: task id and map index of the instance that waits for it.
    """
    steps = [f"{step.kind}({step.function})" for step in (*definition.steps, *definition.item_steps)]
    unit = definition.unit
    if unit.is_window:
        steps.append(f"window({unit.size}" + (f", every={unit.every:g} s)" if unit.every else ")"))
    elif not unit.is_item:
        steps.append("one instance for each batch")
    return {
        **describe_stream(definition),
        "waiter": list(waiter),
        "steps": steps,
        "follows": [task_id for task_id, *_ in definition.parents],
        "batch_size": definition.batch_size,
        "max_items": definition.max_items,
        "walked_on_workers": definition.hops_on_worker,
        "control": asdict(definition.control),
        "uncounted": list(definition.uncounted),
    }
