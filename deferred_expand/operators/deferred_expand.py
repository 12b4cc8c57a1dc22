"""``DeferredExpandOperator``: a source that tasks are mapped over while it is still being read."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import TemplateNotFound

from deferred_expand import settings
from deferred_expand.airflow_internals.sdk import MappedTaskGroup
from deferred_expand.airflow_internals.tasks import MappableValue, current_dag_id, read_template_files
from deferred_expand.definition import Materialize, StreamDefinition
from deferred_expand.exceptions import DefinitionError, SourceNotImportable
from deferred_expand.operators.checks import check_parameters, check_source_kwargs, refuse_mapped
from deferred_expand.operators.followed import FollowedOperator
from deferred_expand.operators.graph import check_complete_dag
from deferred_expand.operators.groups import check_complete_group, complete_group
from deferred_expand.operators.reference import StreamReference
from deferred_expand.shaping.steps import name_steps
from deferred_expand.sources.arguments import can_travel
from deferred_expand.sources.chain import operator_parameters
from deferred_expand.sources.importing import (
    DagPlace,
    FunctionName,
    ImportPath,
    import_source,
    name_of,
    source_path,
)
from deferred_expand.sources.opening import default_retry, is_operator, is_resumable
from deferred_expand.workers.opener import StreamOpener

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from deferred_expand.airflow_internals.sdk import BaseOperator, BaseTrigger
    from deferred_expand.sources.opening import Source
    from deferred_expand.walking.retry import SourceRetry


class DeferredExpandOperator(FollowedOperator):
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
    :param batch_interval: seconds between two batches at least, where they are not full. What a source
        gives after a pause is staged at once, and while a batch waits for its commit the next one grows.
    :param source_retries: how often a source that raises is opened again from its last cursor,
        within one try of the stream head; and how often each batch is written again when the XCom
        backend raises. Retries of the mapped task come after that.
    :param materialize: who commits batches and makes them task instances: ``"triggerer"``, the
        expander beside the triggerer; ``"callback"``, the stream head on a worker; ``"auto"``, the
        expander where there is one that answers, else the worker.
    :param retry: what HTTP status 429 and 5xx, broken connections and time-outs may cost before
        they count as an error of the source; by default a
        :class:`~deferred_expand.SourceRetry` for operators, and nothing for functions.
    :param max_pending: back pressure: the source is asked for no more while this many of its items
        are not finished.
    :param rate_limit: items per second.
    :param max_items: at which the stream ends, for a source that never does. Of a stream that is cut into
        windows this, and ``max_pending``, count windows.
    :param max_duration: seconds, or a ``timedelta``, after its opening at which the stream ends.
    :param continue_last_run: begin where the stream of the DAG's run before has ended, or failed: at its
        last committed cursor. For a source that never ends, in a DAG with ``schedule="@continuous"``.
    :param tolerate: items that may fail before the source is asked for no more: a number, or a share like
        ``"5%"`` of those that have ended, from 20 on; by default all may. Those that failed stay failed.
    :param page_timeout: seconds, or a ``timedelta``, that the source may take to give anything: a page,
        an item, an operator's next hop. After that it counts as an error of the source. There is no
        limit by default, as a source may wait for events. The ``execution_timeout`` of this task is the
        limit of all the time that one try of the stream head waits for the source.
    :param results_of: which task's results a source that takes ``results`` gets of a task group that is
        expanded over the stream; by default those of the only one that no other waits for.
    :param show: names of ``source_kwargs`` whose rendered values may be seen in the web UI; the others
        are shown as they are written in the DAG.
    :raises DefinitionError: the DAG uses it wrongly.
    """

    template_fields: Sequence[str] = ("source_kwargs",)
    _takes_context = False  # a function as source: of the task, as a @task function does
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        source: str | Callable[..., Any] | type[BaseOperator] | type[BaseTrigger],
        source_kwargs: dict[str, Any] | None = None,
        batch_size: int = 100,
        batch_interval: float = 1.0,
        source_retries: int = 2,
        materialize: Materialize = "auto",
        retry: SourceRetry | None = None,
        max_pending: int | None = None,
        rate_limit: float | None = None,
        max_items: int | None = None,
        max_duration: float | timedelta | None = None,
        continue_last_run: bool = False,
        tolerate: int | str | None = None,
        page_timeout: float | timedelta | None = None,
        results_of: str | None = None,
        show: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results_of = results_of
        if self.get_closest_mapped_task_group() is not None:
            refuse_mapped(self.where)
        self.source_kwargs = source_kwargs if source_kwargs is not None else {}
        self.show = show
        self.batch_size = batch_size
        self.batch_interval = batch_interval
        self.source_retries = source_retries
        self.materialize = materialize
        self.max_pending = max_pending
        self.rate_limit = rate_limit
        self.max_items = max_items
        self.max_duration = _seconds(max_duration)
        self.continue_last_run = continue_last_run
        self.tolerate = tolerate
        self.page_timeout = _seconds(page_timeout)
        self.source, self._source = self._find(source)
        self.retry = retry or default_retry(self._source)
        self._take_defaults(kwargs.get("default_args") or {})
        check_parameters(self)
        check_source_kwargs(self, self._source)

    @classmethod
    def partial(cls, **kwargs: Any) -> NoReturn:
        """:raises DefinitionError: always."""
        refuse_mapped(f"DAG {current_dag_id()!r}, task {kwargs.get('task_id')!r}")

    def _take_defaults(self, default_args: dict[str, Any]) -> None:
        """Those of the DAG are for an operator that is its source, too."""
        if is_operator(self._source) and isinstance(self.source_kwargs, dict):
            mine = operator_parameters(self._source)
            defaults = {name: value for name, value in default_args.items() if name in mine}
            self.source_kwargs = {**defaults, **self.source_kwargs}

    def _read_template_files(self, operator: type[BaseOperator]) -> None:
        try:
            self.source_kwargs = read_template_files(self, operator, self.source_kwargs)
        except TemplateNotFound as error:
            raise DefinitionError(
                f"{self.where}: there is no template file {error.name!r}. Put it beside the DAG file, or "
                "name its folder in the DAG's template_searchpath"
            ) from error

    def _find(self, source: Any) -> tuple[FunctionName, Source]:
        """
        What the source is called, and what it is.

        :raises SourceNotImportable: a function that a triggerer could not have.
        """
        found = source
        try:
            found = import_source(source) if isinstance(source, str) else source
            return ImportPath(source_path(source)), found
        except SourceNotImportable as error:
            if not callable(found) or not (settings.load_dags() or is_operator(found)):
                raise SourceNotImportable(f"{self.where}: {error}") from error
        return DagPlace(self.dag_id, self.task_id, None, name_of(found)), found

    @property
    def output(self) -> StreamReference:
        """The stream, for ``.expand()`` or ``.expand_kwargs()``."""
        return StreamReference(operator=self)

    # -- what it is, for those that run it --------------------------------------------------------

    @property
    def hops_on_worker(self) -> bool:
        # Only the DAG file can make the operator, and triggerers do not load it.
        return is_operator(self._source) and not settings.load_dags() and not self._travels

    @property
    def _travels(self) -> bool:
        """Whether a triggerer can import the source, and what it is given."""
        return isinstance(self.source, ImportPath) and can_travel(self.source_kwargs)

    @property
    def definition(self) -> StreamDefinition:
        """As the DAG has it by now."""
        named = name_steps(self._steps + self._item_steps, self.dag_id, self.task_id)
        return StreamDefinition(
            dag_id=self.dag_id,
            task_id=self.task_id,
            source=self.source,
            hops_on_worker=self.hops_on_worker,
            in_dag_file=settings.load_dags()
            and not (self._travels and all(isinstance(step.function, ImportPath) for step in named)),
            resumable=is_resumable(self._source),
            takes_context=self._takes_context,
            parents=tuple(parent.place for parent in self._parents),
            mapped_task_id=self.mapped_task_id,
            steps=named[: len(self._steps)],
            item_steps=named[len(self._steps) :],
            batch_size=self.batch_size,
            batch_interval=self.batch_interval,
            source_retries=self.source_retries,
            retry=self.retry,
            materialize=self.materialize,
            max_pending=self.max_pending,
            rate_limit=self.rate_limit,
            max_items=self.max_items,
            max_duration=self.max_duration,
            continue_last_run=self.continue_last_run,
            fail_fast=self.dag.fail_fast,
            page_timeout=self.page_timeout,
            execution_timeout=_seconds(self.execution_timeout or None),
            unit=self.unit,
            tolerate=self.tolerate,
            group=self.group,
        )

    def function_at(self, step: int | None) -> Callable[..., Any]:
        """What the definition names by a :class:`~deferred_expand.sources.importing.DagPlace`."""
        found: Callable[..., Any] = (
            self._source if step is None else (self._steps + self._item_steps)[step].function
        )
        return found

    def when_parsed(self) -> None:
        if is_operator(self._source):
            self._read_template_files(self._source)
        if self.definition.in_dag_file and self.run_as_user:
            raise DefinitionError(
                f"{self.where}: run_as_user={self.run_as_user!r}, and only the DAG file has the source or a "
                "function that it needs: a triggerer loads it as its own user. Move these to a module that "
                "is installed, or in Airflow's plugins folder, or leave run_as_user out"
            )
        if isinstance(self._expanded, MappedTaskGroup):
            check_complete_group(self, self._expanded, self.dag)
            complete_group(self, self._expanded, self.definition)
        check_complete_dag(self, self._source, self.dag)

    def _make_branch(self, **kwargs: Any) -> StreamBranchOperator:
        return StreamBranchOperator(
            batch_size=self.batch_size,
            batch_interval=self.batch_interval,
            materialize=self.materialize,
            max_pending=self.max_pending,
            **kwargs,
        )

    # -- while the DAG runs -----------------------------------------------------------------------

    def execute(self, context: Any) -> MappableValue:
        """Open the stream."""
        return StreamOpener(self, self.definition, self.rendered_kwargs, context).open()

    def commit(self, context: Any, event: dict[str, Any], until: int | None = 0) -> MappableValue:
        """Where no stream head does: see :meth:`StreamOpener.commit`."""
        return StreamOpener(self, self.definition, self.rendered_kwargs, context).commit(event, until)


def _seconds(time: float | timedelta | None) -> float | None:
    return time.total_seconds() if isinstance(time, timedelta) else time


class StreamBranchOperator(DeferredExpandOperator):
    """A stream whose source is what other streams of the run have committed."""

    ui_color = "#f3e8fd"
