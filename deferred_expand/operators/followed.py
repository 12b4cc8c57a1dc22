"""Who follows a stream, as the DAG file adds them: tasks over it, tasks that read it, streams made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from deferred_expand import settings
from deferred_expand.airflow_internals.mapping import (
    Expanded,
    MappedOperator,
    expand_over,
    is_expanded_over,
    reads,
)
from deferred_expand.airflow_internals.sdk import TriggerRule
from deferred_expand.airflow_internals.tasks import ParsedOperator, free_task_id
from deferred_expand.operators.checks import check_expansion, check_reader, check_steps
from deferred_expand.operators.groups import check_group, describe_group, result_task
from deferred_expand.operators.iterated import iterates, map_over_stream
from deferred_expand.operators.mapped import stream_references
from deferred_expand.operators.reference import StreamReference
from deferred_expand.shaping.follow import follow
from deferred_expand.shaping.steps import split
from deferred_expand.streams.units import BATCH, ITEM
from deferred_expand.workers.arguments import SourceArguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.airflow_internals.sdk import AbstractOperator, BaseOperator
    from deferred_expand.definition import ExpandedGroup, StreamDefinition
    from deferred_expand.shaping.steps import Steps
    from deferred_expand.streams.units import Unit


class FollowedOperator(SourceArguments, ParsedOperator):
    """
    An unmapped task with a stream, which the first task or task group over it takes as it is.

    A second follower gets a stream of its own that follows this one: a branch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.results_of: str | None = None
        self._parents: tuple[FollowedOperator, ...] = ()
        self._shared = False
        self._expanded: Expanded | None = None
        self._steps: Steps = ()
        self._item_steps: Steps = ()

    @property
    def where(self) -> str:
        """For messages."""
        dag = self.get_dag()
        return f"DAG {dag.dag_id!r}, task {self.task_id!r}" if dag else f"task {self.task_id!r}"

    @property
    def definition(self) -> StreamDefinition:
        """What the stream is, as the DAG has it by now."""
        raise NotImplementedError

    @property
    def mapped_task_id(self) -> str | None:
        """
        Of a task group, the task whose results count.

        ``None``: no task is expanded over the stream, and the task itself walks it.
        """
        if isinstance(self._expanded, MappedOperator):
            return self._expanded.task_id
        return result_task(self.where, self.group, self.results_of) if self.group else None

    @property
    def group(self) -> ExpandedGroup | None:
        """The task group that is expanded over the stream."""
        if self._expanded is None or isinstance(self._expanded, MappedOperator):
            return None
        return describe_group(self._expanded, self.task_id)

    @property
    def place(self) -> tuple[str, str | None, str | None]:
        """Task ids: its own, the mapped task's, and the head's beside a group."""
        return self.task_id, self.mapped_task_id, self.group.head_task_id if self.group else None

    @property
    def unit(self) -> Unit:
        """What an instance of the task over it has."""
        return ITEM if self._expanded is None else unit_of(self._expanded)

    @property
    def hops_on_worker(self) -> bool:
        """Whether the stream is walked on workers, hop by hop."""
        raise NotImplementedError

    def _make_branch(self, **kwargs: Any) -> FollowedOperator:
        """An operator for a stream that follows this one."""
        raise NotImplementedError

    # -- tasks ------------------------------------------------------------------------------------

    def edge_to(self, other: AbstractOperator) -> BaseOperator:
        expanded = other.get_closest_mapped_task_group() or other
        if isinstance(expanded, Expanded) and not self._has(expanded) and is_expanded_over(expanded, self):
            check_expansion(self, expanded)
            if not isinstance(expanded, MappedOperator):
                check_group(self, expanded)
            return self._expand(expanded)
        if reads(other, self):
            check_reader(self, other)
            self._share()
        return self

    def _has(self, expanded: Expanded) -> bool:
        mine = self._expanded
        return mine is not None and mine.node_id == expanded.node_id  # a proxy may stand for a group

    def _expand(self, expanded: Expanded) -> FollowedOperator:
        """:return: the operator whose length it follows; another than this when it is not the first."""
        ((_, reference),) = stream_references(expanded)
        apart = reference.steps or not unit_of(expanded).is_item  # from others that follow the stream
        if self._expanded is not None or (self._shared and apart):
            self._share()
        if self._expanded is None and not (self._shared and apart):
            self._take(expanded, reference.steps)
            return self
        return self._branch_for(expanded)

    def _take(self, expanded: Expanded, steps: Steps) -> None:
        check_steps(self, steps, for_followers=unit_of(expanded).is_window)
        self._expanded = expanded
        # Where the DAG file is all functions are: on a worker, or in a triggerer that loads it.
        everywhere = self.hops_on_worker or settings.load_dags()
        self._steps, self._item_steps = (steps, ()) if everywhere else split(steps)
        if isinstance(expanded, MappedOperator):
            map_over_stream(expanded)

    def _share(self) -> None:
        """Someone else follows the stream: keep its own items unshaped."""
        if self._shared:
            return
        self._shared = True
        expanded = self._expanded
        if expanded is None or not (self._steps or self._item_steps or not self.unit.is_item):
            return
        self._expanded, self._steps, self._item_steps = None, (), ()
        branch = self._branch_for(expanded)
        expanded.upstream_task_ids.discard(self.task_id)
        for task in [expanded] if isinstance(expanded, MappedOperator) else list(expanded.iter_tasks()):
            if task.task_id in self.downstream_task_ids:
                self.downstream_task_ids.discard(task.task_id)
                task.upstream_task_ids.discard(self.task_id)
                branch.set_downstream(task)

    def _branch_for(self, expanded: Expanded) -> FollowedOperator:
        ((name, reference),) = stream_references(expanded)
        branch = self._branch((self,), str(expanded.label))
        branch.results_of, self.results_of = self.results_of, None
        expand_over(expanded, name, attrs.evolve(reference, operator=branch))
        return branch._expand(expanded)

    # -- streams made of it -----------------------------------------------------------------------

    def combine(
        self, how: str, references: Sequence[StreamReference], options: dict[str, Any]
    ) -> StreamReference:
        """One stream of several, this one the first."""
        parents: list[Any] = [reference.stream for reference in references]
        for stream in parents:
            stream._share()
        parents = [
            stream._shaped(reference.steps) if reference.steps else stream
            for stream, reference in zip(parents, references, strict=True)
        ]
        first: FollowedOperator = parents[0]
        branch = first._branch(parents, f"{how}_{parents[-1].label}", how=how, **options)
        return StreamReference(operator=branch)

    def _shaped(self, steps: Steps) -> FollowedOperator:
        """A stream of its own with this shape, for whoever follows it."""
        last = steps[-1]
        branch = self._branch((self,), last.name.replace("<lambda>", last.kind))
        check_steps(branch, steps, for_followers=True)
        branch._steps, branch._shared = steps, True
        return branch

    def _branch(
        self, parents: Sequence[FollowedOperator], name: str, **source_kwargs: Any
    ) -> FollowedOperator:
        """A stream whose source is what others have committed; it does not wait for their end."""
        branch = self._make_branch(
            source=follow,
            source_kwargs=source_kwargs,
            trigger_rule="all_success",
            # It waits for its parents, as long as those wait for theirs: not what a DAG's defaults mean.
            page_timeout=None,
            execution_timeout=None,
            task_id=free_task_id(self, name),
            dag=self.dag,
            task_group=self.task_group,
        )
        branch._parents = tuple(parents)
        # Not at once: a DAG with fail_fast takes a task with no other rule than its author's.
        branch.trigger_rule = TriggerRule.ALWAYS
        branch.set_upstream(parents)
        return branch


def unit_of(expanded: Expanded) -> Unit:
    """What each instance of a task that is expanded over a stream has of it."""
    if isinstance(expanded, MappedOperator) and iterates(expanded):
        return BATCH
    ((_, reference),) = stream_references(expanded)
    return reference.unit
