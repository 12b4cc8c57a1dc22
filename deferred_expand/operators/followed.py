"""Who follows a stream, as the DAG file adds them: tasks over it, tasks that read it, streams made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from deferred_expand import settings
from deferred_expand.airflow_internals.mapping import MappedOperator, expand_over, is_expanded_over, reads
from deferred_expand.airflow_internals.sdk import TriggerRule
from deferred_expand.airflow_internals.tasks import ParsedOperator, free_task_id
from deferred_expand.operators.checks import check_expansion, check_reader, check_steps, refuse_group
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
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.shaping.steps import Steps
    from deferred_expand.streams.units import Unit


class FollowedOperator(SourceArguments, ParsedOperator):
    """
    An unmapped task with a stream, which the first task over it takes as it is.

    A second follower gets a stream of its own that follows this one: a branch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._parents: tuple[FollowedOperator, ...] = ()
        self._shared = False
        self._mapped: MappedOperator | None = None
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
        """``None``: no task is expanded over the stream, and the task itself walks it."""
        return self._mapped.task_id if self._mapped else None

    @property
    def unit(self) -> Unit:
        """What an instance of the task over it has."""
        return ITEM if self._mapped is None else unit_of(self._mapped)

    @property
    def hops_on_worker(self) -> bool:
        """Whether the stream is walked on workers, hop by hop."""
        raise NotImplementedError

    def _make_branch(self, **kwargs: Any) -> FollowedOperator:
        """An operator for a stream that follows this one."""
        raise NotImplementedError

    # -- tasks ------------------------------------------------------------------------------------

    def edge_to(self, other: AbstractOperator) -> BaseOperator:
        group = other.get_closest_mapped_task_group()
        if group is not None and is_expanded_over(group, self):
            refuse_group(self, group)
        if isinstance(other, MappedOperator) and other is not self._mapped and is_expanded_over(other, self):
            check_expansion(self, other)
            return self._expand(other)
        if reads(other, self):
            check_reader(self, other)
            self._share()
        return self

    def _expand(self, mapped: MappedOperator) -> FollowedOperator:
        """:return: the operator whose length the task follows; another than this when it is not the first."""
        ((_, reference),) = stream_references(mapped)
        apart = reference.steps or not unit_of(mapped).is_item  # from others that follow the stream
        if self._mapped is not None or (self._shared and apart):
            self._share()
        if self._mapped is None and not (self._shared and apart):
            self._take(mapped, reference.steps)
            return self
        return self._branch_for(mapped)

    def _take(self, mapped: MappedOperator, steps: Steps) -> None:
        check_steps(self, steps, for_followers=unit_of(mapped).is_window)
        self._mapped = mapped
        # Where the DAG file is all functions are: on a worker, or in a triggerer that loads it.
        everywhere = self.hops_on_worker or settings.load_dags()
        self._steps, self._item_steps = (steps, ()) if everywhere else split(steps)
        map_over_stream(mapped)

    def _share(self) -> None:
        """Someone else follows the stream: keep its own items unshaped."""
        if self._shared:
            return
        self._shared = True
        mapped = self._mapped
        if mapped is None or not (self._steps or self._item_steps or not self.unit.is_item):
            return
        self._mapped, self._steps, self._item_steps = None, (), ()
        branch = self._branch_for(mapped)
        self.downstream_task_ids.discard(mapped.task_id)
        mapped.upstream_task_ids.discard(self.task_id)
        branch.set_downstream(mapped)

    def _branch_for(self, mapped: MappedOperator) -> FollowedOperator:
        ((name, reference),) = stream_references(mapped)
        branch = self._branch((self,), str(mapped.label))
        expand_over(mapped, name, attrs.evolve(reference, operator=branch))
        return branch._expand(mapped)

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


def unit_of(mapped: MappedOperator) -> Unit:
    """What each instance of a task that is expanded over a stream has of it."""
    if iterates(mapped):
        return BATCH
    ((_, reference),) = stream_references(mapped)
    return reference.unit
