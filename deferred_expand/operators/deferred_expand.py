"""``DeferredExpandOperator``: a source that tasks are mapped over while it is still being read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import (
    AbstractOperator,
    BaseOperator,
    DependencyMixin,
    MappedOperator,
    XComArg,
)
from deferred_expand.committing.store import StreamRef
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.operators.checks import (
    check_complete_dag,
    check_expansion,
    check_not_expanded,
    check_parameters,
    check_source_kwargs,
    check_steps,
)
from deferred_expand.operators.consumers import Consumers, reads
from deferred_expand.operators.opener import StreamOpener
from deferred_expand.operators.output import StreamReference
from deferred_expand.operators.worker_hops import WorkerHops
from deferred_expand.sources.arguments import can_travel, pack
from deferred_expand.sources.importing import import_source, source_path
from deferred_expand.sources.opening import default_retry, is_operator
from deferred_expand.triggers.expansion import Expansion, Materialize
from deferred_expand.triggers.streaming import StreamingExpansionTrigger, is_streaming_trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deferred_expand.airflow_internals.sdk import BaseTrigger
    from deferred_expand.committing.store import StreamStore
    from deferred_expand.shaping.steps import Steps
    from deferred_expand.sources.opening import Source
    from deferred_expand.walking.retry import RetryPolicy


class DeferredExpandOperator(StreamOpener):
    """
    Opens a source as a stream: a task expanded over its ``output`` grows page by page.

    ::

        users = DeferredExpandOperator(
            task_id="users",
            source="my_project.sources:list_users",
            source_kwargs={"url": "{{ params.url }}"},
        )
        Insert.partial(task_id="insert").expand(rows=users.output)

    The task itself takes a moment. The source is walked in the triggerer; each batch of items
    becomes instances of the mapped task, item n with map index n. Index 0 is the stream head, which
    keeps the mapped task unfinished until the source has ended.

    :param source: an async generator function, a generator function, or a function that returns an
        iterable, that a triggerer can import; or its ``"package.module:name"``. It gives items, or
        :class:`~deferred_expand.Page` objects. If it takes a parameter named ``cursor``, it gets
        the last committed cursor (``None`` at first) and goes on after it. If not, it is walked
        from the start, and must give the same items in the same order. An operator class is
        walked hop by hop, a trigger class gives an item with each event; a subclass of
        :class:`~deferred_expand.StreamingExpansionTrigger` is walked as it is.
    :param source_kwargs: arguments for the source; functions and classes among them must be
        importable, other than an operator's. (templated)
    :param batch_size: items in a batch at most.
    :param batch_interval: seconds; a batch not yet full is staged when its oldest item is this old.
    :param source_retries: how often a source that raises is opened again from its last cursor,
        within one try of the stream head. Retries of the mapped task come after that.
    :param materialize: who commits batches and makes them task instances: ``"triggerer"``, the
        expander beside the triggerer; ``"callback"``, the stream head on a worker; ``"auto"``, the
        expander where there is one that answers, else the worker.
    :param retry: what HTTP status 429 and 5xx, broken connections and time-outs may cost before
        they count as an error of the source; by default a
        :class:`~deferred_expand.RetryPolicy` for operators, and nothing for functions.
    :param max_pending: back pressure: the source is asked for no more while this many of its items
        are not finished.
    :param rate_limit: items per second.
    :param max_items: at which the stream ends, for a source that never does.
    :raises DefinitionError: the DAG uses it wrongly.
    """

    template_fields: Sequence[str] = ("source_kwargs",)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        source: str | Callable[..., Any] | type[BaseOperator] | type[BaseTrigger],
        source_kwargs: dict[str, Any] | None = None,
        batch_size: int = 100,
        batch_interval: float = 5.0,
        source_retries: int = 2,
        materialize: Materialize = "auto",
        retry: RetryPolicy | None = None,
        max_pending: int | None = None,
        rate_limit: float | None = None,
        max_items: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_kwargs = source_kwargs if source_kwargs is not None else {}
        self.batch_size = batch_size
        self.batch_interval = batch_interval
        self.source_retries = source_retries
        self.materialize = materialize
        self.max_pending = max_pending
        self.rate_limit = rate_limit
        self.max_items = max_items
        self.consumers = Consumers(self)
        self._edge_from: DeferredExpandOperator = self
        self.source_is_importable = True
        try:
            self.source = source_path(source)
        except SourceNotImportable as error:
            if not is_operator(source):
                raise SourceNotImportable(f"{self.where}: {error}") from error
            self.source, self.source_is_importable = source.__qualname__, False  # type: ignore[union-attr]
        self.source_object: Source = import_source(self.source) if self.source_is_importable else source
        self.retry = retry or default_retry(self.source_object)
        check_parameters(self)
        check_source_kwargs(self)

    # -- while the DAG is parsed ------------------------------------------------------------------

    @property
    def where(self) -> str:
        """For messages."""
        dag = self.get_dag()
        return f"DAG {dag.dag_id!r}, task {self.task_id!r}" if dag else f"task {self.task_id!r}"

    @property
    def hops_on_worker(self) -> bool:
        # Only the DAG file can make the operator: it lies there, or a function that it is given.
        return is_operator(self.source_object) and not (
            self.source_is_importable and can_travel(self.source_kwargs)
        )

    @property
    def output(self) -> StreamReference:
        """The stream, for ``.expand()`` or ``.expand_kwargs()``."""
        return StreamReference(operator=self)

    def update_relative(
        self, other: DependencyMixin, upstream: bool = True, edge_modifier: Any = None
    ) -> None:
        """
        Called by the SDK for each task that is put up- or downstream of this one, a mapped operator
        among them as soon as it is made (airflow/sdk/definitions/_internal/node.py).
        """
        super().update_relative(other, upstream, edge_modifier)
        if isinstance(other, AbstractOperator) and (group := other.get_closest_mapped_task_group()):
            check_not_expanded(self, group)
        if isinstance(other, MappedOperator) and self._is_referred_to_by(other):
            check_expansion(self, other)
            self._edge_from = self.consumers.expand(other)
        elif isinstance(other, AbstractOperator) and reads(other, self):
            self.consumers.share()

    @property
    def leaves(self) -> list[BaseOperator]:
        """Where the edge to the task begins that :meth:`update_relative` was just called for."""
        edge_from, self._edge_from = self._edge_from, self
        return [edge_from]

    def check_steps(self, steps: Steps, *, for_followers: bool = False) -> None:
        """:raises DefinitionError: they cannot run where this stream is walked."""
        check_steps(self, steps, for_followers=for_followers)

    @property
    def mapped_task_id(self) -> str | None:
        """``None``: no task is expanded over the stream, and the task itself walks it."""
        return self.consumers.mapped.task_id if self.consumers.mapped else None

    @property
    def item_steps(self) -> Steps:
        return self.consumers.item_steps

    def _is_referred_to_by(self, mapped: MappedOperator) -> bool:
        references = XComArg.iter_xcom_references(mapped._get_specified_expand_input())
        return any(operator is self for operator, _ in references)

    def resolve_template_files(self) -> None:
        """The last that the DAG parser asks of every task: all tasks and edges are known."""
        super().resolve_template_files()
        check_complete_dag(self)

    # -- while the DAG runs -----------------------------------------------------------------------

    def stream_ref(self, context: Any) -> StreamRef:
        ti = context["ti"]
        return StreamRef(ti.dag_id, ti.run_id, self.task_id, self.mapped_task_id)

    def trigger(
        self,
        ref: StreamRef,
        stream: str,
        source_kwargs: dict[str, Any],
        *,
        for_head: bool,
    ) -> StreamingExpansionTrigger:
        """What walks the source on from the last commit, with arguments rendered by whoever waits."""
        expansion = Expansion(
            ref=ref,
            stream=stream,
            for_head=for_head,
            materialize=self.materialize,
            batch_size=self.batch_size,
            batch_interval=self.batch_interval,
            source_retries=self.source_retries,
            retry=self.retry.to_json() if self.retry else None,
            steps=[step.to_json() for step in self.consumers.steps],
            max_pending=self.max_pending,
            rate_limit=self.rate_limit,
            max_items=self.max_items,
        ).to_json()
        if is_streaming_trigger(self.source_object):
            return self.source_object(**source_kwargs, expansion=expansion)  # type: ignore[no-any-return]
        return StreamingExpansionTrigger(
            source=self.source, source_kwargs=pack(source_kwargs), expansion=expansion
        )

    def worker_hops(self, store: StreamStore, source_kwargs: dict[str, Any], try_number: int) -> WorkerHops:
        """The same where hops run on workers."""
        return WorkerHops(self, store, source_kwargs, try_number)
