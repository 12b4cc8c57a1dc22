"""A source that only a DAG file has, opened in a DAG file process."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from deferred_expand.airflow_internals.contexts import restore
from deferred_expand.airflow_internals.sdk import TaskNotFound
from deferred_expand.committing.finished import finished_results
from deferred_expand.definition import StreamDefinition
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.shaping.pipeline import shape
from deferred_expand.shaping.steps import find_steps
from deferred_expand.sources.arguments import CONTEXT, mask, unpack
from deferred_expand.sources.importing import find_function
from deferred_expand.sources.opening import is_resumable, open_source, with_own_outcomes
from deferred_expand.sources.plain_json import read
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from deferred_expand.dag_files.loading import LoadedDags
    from deferred_expand.dag_files.orders import WalkOrder
    from deferred_expand.dag_files.outlet import Outlet
    from deferred_expand.walking.results import FinishedResults

HEARD = 0.2  # seconds between two words that something has come, where all of it is dropped


class Tell(Protocol):
    """Tells the trigger runner something of the stream."""

    def __call__(self, kind: str, body: Any = None) -> None: ...


class Walking:
    """
    Loads the DAG, which may take a while and run any code.

    :param outlet: knows how much the source has given.
    :raises DagMissing: it is not there (yet).
    :raises SourceNotImportable: it cannot be loaded here, or another source is in it now.
    """

    def __init__(self, order: WalkOrder, dags: LoadedDags, outlet: Outlet, tell: Tell) -> None:
        self._order = order
        self._outlet = outlet
        self._tell = tell
        self._heard = 0.0
        self._definition = StreamDefinition.from_json(order.definition)
        dag = dags.find(order, self._definition.dag_id, self._definition.task_id)
        try:
            self._task: Any = dag.get_task(self._definition.task_id)
            self._source = find_function(self._definition.source, dag)
            self._steps = find_steps(self._definition.steps, dag)
        except SourceNotImportable as error:
            raise self._changed(str(error)) from error
        except (TaskNotFound, LookupError, AttributeError) as error:
            raise self._changed(f"there is no such stream in it: {error}") from error
        self.resumable = is_resumable(self._source)

    def _changed(self, how: str) -> SourceNotImportable:
        return SourceNotImportable(
            f"{self._definition.where}: {self._order.file!r} has changed while the stream was open: {how}. "
            f"Clear {self._definition.task_id!r} with its downstream to begin anew, or bring back what was "
            "there"
        )

    async def pages(self) -> AsyncGenerator[Any, None]:
        """What the source gives, shaped: pages and items."""
        threads = Threads("source", reads_ahead=self._order.reads_ahead), Threads("steps")
        try:
            async with aclosing(self._open(*threads)) as given:
                async for page in given:
                    yield page
        finally:
            for thread in threads:
                thread.close()

    async def _open(self, thread: Threads, steps_thread: Threads) -> AsyncGenerator[Any, None]:
        packed = read(self._order.arguments)
        mask(packed)
        arguments = unpack(packed, self._task.source_kwargs)
        carried = arguments.pop(CONTEXT, None)
        opened: Any = open_source(
            self._source,
            arguments,
            self._order.cursor,
            thread,
            ref=self._definition.ref(self._order.run_id),
            try_number=self._order.try_number,
            outer=None,
            results=partial(self._results, thread),
            context=None if carried is None else restore(carried, self._task),
        )
        if self._steps:
            opened = shape(opened, self._steps, steps_thread, self._hear)
        async with aclosing(with_own_outcomes(opened)) as given:
            async for page in given:
                yield page

    def _hear(self) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._heard + HEARD:
            self._heard = now
            self._tell("heard")

    def _results(self, thread: Threads) -> FinishedResults:
        return finished_results(
            self._definition.ref(self._order.run_id),
            thread,
            lambda: self._outlet.given,
            lambda: self._tell("hurry"),
            outside=self._outside,
        )

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """The source waits for what is not its own to give."""
        self._tell("clock", "stop")
        try:
            yield
        finally:
            self._tell("clock", "start")
