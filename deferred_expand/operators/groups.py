"""A task group that is expanded over a stream: what the DAG gets for it once all its tasks are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.grouping import (
    is_in,
    leaves_of,
    mapped_around,
    mapped_within,
    take_same_index,
)
from deferred_expand.airflow_internals.mapping import reads
from deferred_expand.definition import ExpandedGroup
from deferred_expand.exceptions import DefinitionError
from deferred_expand.workers.group_head import GroupHeadOperator

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.sdk import BaseOperator, MappedTaskGroup
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.operators.reference import StreamTask

# What the author sets on the unmapped task that is the head's, too.
_HEAD_ARGUMENTS = (
    "email", "email_on_failure", "executor", "max_retry_delay", "on_failure_callback", "owner", "queue",
    "retries", "retry_delay", "retry_exponential_backoff", "run_as_user", "show",
)  # fmt: skip


def describe_group(group: MappedTaskGroup, stream_task_id: str) -> ExpandedGroup:
    """As the DAG has it by now."""
    return ExpandedGroup(
        group_id=str(group.group_id),
        head_task_id=f"{stream_task_id}.stream",
        task_ids=tuple(task.task_id for task in group.iter_tasks()),
        leaves=tuple(leaves_of(group)),
    )


def result_task(where: str, group: ExpandedGroup, results_of: str | None) -> str | None:
    """
    The task of the group whose results are those of the items.

    :param results_of: its id, with or without the group's prefix; ``None``: the only leaf's.
    :raises DefinitionError: the group has no such task.
    """
    if results_of is None:
        return group.leaves[0] if group.leaves else None
    for task_id in (results_of, f"{group.group_id}.{results_of}"):
        if task_id in group.task_ids:
            return task_id
    names = ", ".join(map(repr, group.task_ids))
    raise DefinitionError(
        f"{where}: results_of={results_of!r} is no task of task group {group.group_id!r}, which has {names}"
    )


def check_group(stream: StreamTask, group: MappedTaskGroup) -> None:
    """As far as that is known before its tasks are."""
    if mapped_around(group):
        raise DefinitionError(
            f"{stream.where}: task group {group.group_id!r} is expanded over a stream, and within another "
            "mapped task group: its map indexes would change as it grows. Let the source give the "
            "combinations"
        )


def check_complete_group(stream: StreamTask, group: MappedTaskGroup, dag: Any) -> None:
    """:raises DefinitionError: it cannot grow."""
    where = f"{stream.where}: task group {group.group_id!r} is expanded over a stream"
    for inner in mapped_within(group):
        raise DefinitionError(
            f"{where}, and has the mapped task group {inner.group_id!r} in it, whose map indexes would "
            "change as it grows. Let the source give the combinations"
        )
    for task in group.iter_tasks():
        if str(getattr(task.trigger_rule, "value", "")) == "always":
            raise DefinitionError(
                f"{where}, and its task {task.task_id!r} has trigger_rule='always', with which it would "
                "start before anything in the group. Use 'all_done'"
            )
        if reads(task, dag.get_task(stream.definition.task_id)):
            raise DefinitionError(
                f"{where}, and its task {task.task_id!r} is given the stream as a whole: each item would "
                "wait for the last one. Give it the group's argument"
            )


def complete_group(stream: BaseOperator, group: MappedTaskGroup, definition: StreamDefinition) -> None:
    """
    Put the stream head beside the group, for which all that waits for the group waits as well.

    Once all tasks and edges are known; again does no harm.
    """
    dag, described = stream.dag, definition.group
    there = None if described is None else dag.task_dict.get(described.head_task_id)
    if described is None or isinstance(there, GroupHeadOperator):
        return
    if there is not None:
        raise DefinitionError(
            f"{definition.where}: task {described.head_task_id!r} has the id of the stream head beside task "
            f"group {described.group_id!r}. Give it another one"
        )
    head = GroupHeadOperator(
        definition=definition,
        source_kwargs=stream.source_kwargs,  # type: ignore[attr-defined]
        task_id=f"{stream.label}.stream",  # a task group's prefix comes by itself
        dag=dag,
        task_group=stream.task_group,
        trigger_rule="all_success",
        execution_timeout=None,
        **{name: getattr(stream, name) for name in _HEAD_ARGUMENTS if hasattr(stream, name)},
    )
    head.set_upstream(stream)
    inside = set(described.task_ids)
    for task in dag.tasks:
        if is_in(described.group_id, task):
            take_same_index(task, group)
        elif task is not head and task.upstream_task_ids & inside:
            task.set_upstream(head)
