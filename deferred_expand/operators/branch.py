"""Streams made of streams: a small unmapped task for every one that Airflow must know the length of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.committing.store import StreamRef
from deferred_expand.operators.deferred_expand import DeferredExpandOperator
from deferred_expand.operators.output import StreamReference
from deferred_expand.shaping.follow import follow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.triggers.streaming import StreamingExpansionTrigger


class StreamBranchOperator(DeferredExpandOperator):
    """
    A stream whose source is what other streams of the run have committed.

    Airflow keeps one length for each unmapped task (airflow/models/taskmap.py), so each further
    length needs a task. It does not wait for its parents, which may be walked until the end.

    :param parents: operators of the streams that are followed, unshaped.
    :param how: ``"zip"`` or ``"concat"``.
    """

    ui_color = "#f3e8fd"

    def __init__(
        self, *, parents: Sequence[DeferredExpandOperator], how: str = "concat", **kwargs: Any
    ) -> None:
        first = parents[0]
        self._parents = tuple(parents)
        super().__init__(
            source=follow,
            source_kwargs={"how": how, **kwargs.pop("options", {})},
            batch_size=first.batch_size,
            batch_interval=first.batch_interval,
            materialize=first.materialize,
            max_pending=first.max_pending,
            trigger_rule="always",
            **kwargs,
        )
        self.set_upstream(self._parents)

    @property
    def parents(self) -> Sequence[DeferredExpandOperator]:
        return self._parents

    def trigger(
        self, ref: StreamRef, stream: str, source_kwargs: dict[str, Any], *, for_head: bool
    ) -> StreamingExpansionTrigger:
        parents = [
            StreamRef(ref.dag_id, ref.run_id, parent.task_id, parent.mapped_task_id).to_json()
            for parent in self.parents
        ]
        return super().trigger(ref, stream, {**source_kwargs, "parents": parents}, for_head=for_head)


def branch_off(reference: StreamReference, name: str) -> DeferredExpandOperator:
    """A task of its own for a reference, whose steps will shape that task's stream."""
    stream = reference.stream
    return _branch([_share(stream)], name)


def combine(how: str, references: Sequence[StreamReference], options: dict[str, Any]) -> StreamReference:
    """One stream of several."""
    parents = [
        _shaped_branch(reference) if reference.steps else _share(reference.stream) for reference in references
    ]
    branch = _branch(parents, f"{how}_{parents[-1].label}", how=how, options=options)
    return StreamReference(operator=branch)


def _branch(parents: list[DeferredExpandOperator], name: str, **kwargs: Any) -> StreamBranchOperator:
    first = parents[0]
    return StreamBranchOperator(
        parents=parents, task_id=_free_name(first, name), dag=first.dag, task_group=first.task_group, **kwargs
    )


def _share(stream: DeferredExpandOperator) -> DeferredExpandOperator:
    """From now on the stream's own items are unshaped, for others to follow."""
    stream.consumers.share()
    return stream


def _shaped_branch(reference: StreamReference) -> DeferredExpandOperator:
    last = reference.steps[-1]
    branch = branch_off(reference, last.name.replace("<lambda>", last.kind))
    branch.consumers.shape(reference.steps)
    return branch


def _free_name(stream: DeferredExpandOperator, name: str) -> str:
    """A task id that says what it is a part of; within its task group, whose prefix comes by itself."""
    taken = set(stream.dag.task_dict)
    prefix = stream.task_id.removesuffix(str(stream.label))
    found, number = f"{stream.label}.{name}", 1
    while prefix + found in taken:
        number += 1
        found = f"{stream.label}.{name}_{number}"
    return found
