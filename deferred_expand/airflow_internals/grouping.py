"""Mapped task groups where DAGs are parsed and tasks run: what is in one, and values that stay in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions._internal.mixins import ResolveMixin
from airflow.sdk.definitions.taskgroup import MappedTaskGroup
from airflow.sdk.definitions.xcom_arg import PlainXComArg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk.definitions._internal.abstractoperator import AbstractOperator


def is_in(group_id: str | None, task: AbstractOperator) -> bool:
    """Whether a task is an instance of a mapped group; a plain group in between does not matter."""
    found = task.get_closest_mapped_task_group()
    return found is not None and found.group_id == group_id  # a proxy may stand for the group


def leaves_of(group: MappedTaskGroup) -> list[str]:
    """The tasks that nothing in the group waits for, but teardowns where there is anything else."""
    inside = {task.task_id: task for task in group.iter_tasks()}
    works = {name for name, task in inside.items() if not task.is_teardown} or set(inside)
    return [name for name in inside if name in works and not inside[name].downstream_task_ids & works]


def mapped_around(group: MappedTaskGroup) -> bool:
    return group.parent_group is not None and any(True for _ in group.parent_group.iter_mapped_task_groups())


def mapped_within(group: MappedTaskGroup) -> Iterator[MappedTaskGroup]:
    for found in group.get_task_group_dict().values():
        if isinstance(found, MappedTaskGroup) and found.group_id != group.group_id:
            yield found


class SameIndexXComArg(PlainXComArg):
    """
    What another task of the same mapped group has returned under the same map index.

    Natively the SDK counts instances twice to find that index, and takes a quotient
    (airflow/sdk/execution_time/task_mapping.py, ``get_relevant_upstream_map_indexes``): of a group that grows
    in between it would be another one's.
    """

    __slots__ = ()

    def resolve(self, context: Any) -> Any:
        ti = context["ti"]
        group = self.operator.get_closest_mapped_task_group()
        if group is None or not is_in(group.group_id, ti.task):
            return super().resolve(context)
        # What the SDK takes as known (airflow/sdk/definitions/xcom_arg.py, ``PlainXComArg.resolve``).
        before = getattr(ti, "_upstream_map_indexes", None)
        ti._upstream_map_indexes = {self.operator.task_id: ti.map_index}
        try:
            return super().resolve(context)
        finally:
            ti._upstream_map_indexes = before


def take_same_index(task: AbstractOperator, group: MappedTaskGroup) -> None:
    """Give a task of the group the values of the group's other tasks that have its own index."""
    waiting = [getattr(task, field, None) for field in task.template_fields]
    while waiting:
        value = waiting.pop()
        if type(value) is PlainXComArg:
            if is_in(group.group_id, value.operator):
                value.__class__ = SameIndexXComArg
        elif isinstance(value, ResolveMixin):
            waiting += [getattr(value, name) for name in ("arg", "args") if hasattr(value, name)]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
