"""What only the whole DAG shows: who waits for a stream that waits for them, or takes it for another."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.mapping import reads, spare_workers
from deferred_expand.airflow_internals.tasks import template_texts
from deferred_expand.definition import StreamDefinition
from deferred_expand.exceptions import DefinitionError
from deferred_expand.sources.function import takes
from deferred_expand.streams.units import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.operators.reference import StreamTask
    from deferred_expand.sources.opening import Source

# That take one instance's end or success for the mapped task's, or none at all for that of all items.
_RULES_THAT_COUNT_THE_HEAD = frozenset({
    "one_success", "one_done", "all_skipped", "all_failed", "none_failed_min_one_success",
    "all_done_min_one_success",
})  # fmt: skip


class PlacesHeldByHeads(UserWarning):
    """Stream heads of several runs can hold every place that the items have."""


class StreamHeadCounted(UserWarning):
    """A trigger rule downstream takes the stream head for an item."""


def check_complete_dag(stream: StreamTask, source: Source, dag: Any) -> None:
    """Once all tasks and edges are known; and what an item costs is settled by what is known then."""
    definition = stream.definition
    _check_pulls(stream, dag)
    _check_continues(stream, dag)
    if definition.mapped_task_id is None:
        _check_what_needs_instances(stream, source)
        return
    _check_nobody_waits_in_a_circle(stream, source, dag)
    if definition.group is not None:
        _check_results_of_group(stream, source)
        head = definition.group.head_task_id
        _warn_of_counted_head(stream, dag, head, f"stream head {head!r}")
        return
    _warn_of_held_places(stream, dag)
    if definition.unit == BATCH:
        _check_what_counts_items(stream, source)
    else:
        spare_workers(dag.get_task(definition.mapped_task_id))
        _check_results_of_windows(stream, source)
    mapped = definition.mapped_task_id
    _warn_of_counted_head(stream, dag, str(mapped), f"the stream head of {mapped!r} (map index 0)")


def _warn_of_counted_head(stream: StreamTask, dag: Any, head: str, named: str) -> None:
    for task_id in dag.get_task(head).downstream_task_ids:
        rule = str(getattr(dag.get_task(task_id).trigger_rule, "value", ""))
        if rule in _RULES_THAT_COUNT_THE_HEAD:
            warnings.warn(
                f"{stream.where}: task {task_id!r} has trigger_rule={rule!r}, for which {named} counts as "
                "one success. Use 'all_done' or 'none_failed', or look at the items' results",
                StreamHeadCounted,
                stacklevel=3,
            )


def _warn_of_held_places(stream: StreamTask, dag: Any) -> None:
    task_id = stream.definition.mapped_task_id
    limit = dag.get_task(task_id).partial_kwargs.get("max_active_tis_per_dag")
    if limit is not None and limit <= dag.max_active_runs:
        warnings.warn(
            f"{stream.where}: task {task_id!r} has max_active_tis_per_dag={limit}, and {dag.max_active_runs} "
            "runs may be active: each open stream holds a place, so that with as many runs no item runs "
            "before a stream has ended (with max_pending or results: never). Let max_active_runs be less, or "
            "give the task a pool that does not count deferred tasks",
            PlacesHeldByHeads,
            stacklevel=2,
        )


def _check_what_counts_items(stream: StreamTask, source: Source) -> None:
    definition = stream.definition
    for name, wanted in (
        ("max_pending", definition.max_pending),
        ("max_items", definition.max_items),
        ("results", _takes_results(source)),
    ):
        if wanted:
            raise DefinitionError(
                f"{stream.where}: {name} counts task instances, and those of "
                f"{definition.mapped_task_id!r} run a batch each: leave it out, or use .expand()"
            )


def _takes_results(source: Source) -> bool:
    return not isinstance(source, type) and takes(source, "results")


def _check_results_of_group(stream: StreamTask, source: Source) -> None:
    group = stream.definition.group
    if group is not None and len(group.leaves) > 1 and _takes_results(source) and not stream.results_of:
        names = ", ".join(map(repr, group.leaves))
        raise DefinitionError(
            f"{stream.where}: the source takes results, and task group {group.group_id!r} ends with {names}: "
            "say results_of=, and which task's they shall be"
        )


def _check_continues(stream: StreamTask, dag: Any) -> None:
    definition = stream.definition
    if not definition.continue_last_run:
        return
    if dag.max_active_runs != 1:
        raise DefinitionError(
            f"{stream.where}: continue_last_run needs max_active_runs=1 in its DAG, as with "
            'schedule="@continuous": two runs at a time would go on after the same one'
        )
    if not definition.resumable:
        raise DefinitionError(
            f"{stream.where}: continue_last_run needs a source with a cursor: let it have a parameter "
            "'cursor', and give Page(items, cursor=...)"
        )


def _check_results_of_windows(stream: StreamTask, source: Source) -> None:
    """Walked from the start again, a source would not see after which of its items windows had closed."""
    definition = stream.definition
    if definition.unit.is_window and _takes_results(source) and not definition.resumable:
        raise DefinitionError(
            f"{stream.where}: a source that takes results of windows needs a cursor: let it have a "
            "parameter 'cursor', and give Page(items, cursor=...)"
        )


def _check_what_needs_instances(stream: StreamTask, source: Source) -> None:
    definition = stream.definition
    for name, wanted in (
        ("max_pending", definition.max_pending),
        ("tolerate", definition.tolerate is not None),
        ("results", _takes_results(source)),
    ):
        if wanted and not definition.parents:
            raise DefinitionError(
                f"{stream.where}: {name} needs a task that is expanded over "
                f"{definition.task_id!r}.output itself, and not over a shape of it beside others that "
                "follow the stream"
            )


def _check_nobody_waits_in_a_circle(stream: StreamTask, source: Source, dag: Any) -> None:
    """
    The head walks the stream, so what it waits for must not wait for the stream's end.

    In a task group items may, which are not waited for.
    """
    definition = stream.definition
    walker, group = str(definition.mapped_task_id), definition.group
    if group is not None:
        if definition.max_pending is None and not _takes_results(source):
            return
        walker = f"{group.group_id}, a task group"
        before = set().union(*(_upstream(task_id, dag) for task_id in group.task_ids))
    else:
        before = _upstream(walker, dag)
    for task_id in _waiting_for(definition.task_id, dag):
        if task_id in before:
            raise DefinitionError(
                f"{stream.where}: task {walker!r}, which is expanded over the stream and has it read, "
                f"waits for task {task_id!r}, which waits for the end of the stream. "
                f"{needs_the_whole(task_id)}, or take {task_id!r} out of what {walker!r} waits for"
            )


def needs_the_whole(task_id: str) -> str:
    """What to do instead where nothing can begin before the stream is at its end."""
    return (
        f"Where {task_id!r} comes first there is nothing to stream: let a task return the whole list (it may "
        "read the stream), and expand over that one's output"
    )


def _waiting_for(task_id: str, dag: Any) -> Iterator[str]:
    """What is expanded over streams that follow a stream, and what reads one of these or itself."""
    definitions = [getattr(task, "definition", None) for task in dag.tasks]
    followers = [found for found in definitions if isinstance(found, StreamDefinition) and found.parents]
    streams, before = {task_id}, 0
    while len(streams) > before:
        before = len(streams)
        streams |= {f.task_id for f in followers if streams & {parent[0] for parent in f.parents}}
    for follower in followers:
        if follower.task_id in streams:
            yield follower.mapped_task_id or follower.task_id
    for task in dag.tasks:
        if any(reads(task, dag.get_task(name)) for name in streams):
            yield task.task_id


def _upstream(task_id: str, dag: Any) -> set[str]:
    found: set[str] = set()
    waiting = [task_id]
    while waiting:
        new = dag.get_task(waiting.pop()).upstream_task_ids - found
        found |= new
        waiting.extend(new)
    return found


def _check_pulls(stream: StreamTask, dag: Any) -> None:
    """A template that pulls what the unmapped task returns gets no items."""
    task_id = stream.definition.task_id
    pull = re.compile(rf"""xcom_pull\s*\(\s*(task_ids\s*=\s*)?[\[(]?\s*['"]{re.escape(task_id)}['"][^)]*\)""")
    for task in dag.tasks:
        for field, text in template_texts(task):
            found = pull.search(text)
            if found and "key" not in found[0].replace(task_id, ""):
                raise DefinitionError(
                    f"{stream.where}: {field} of task {task.task_id!r} pulls the XCom of {task_id!r} with "
                    f"{found[0]!r}, which is not the stream's items. Give the task {task_id!r}.output as an "
                    "argument: it reads them all, and waits for the end"
                )
