"""``IterableOperator``: one task instance that runs many items."""

from __future__ import annotations

import asyncio
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.contexts import contexts_apart
from deferred_expand.airflow_internals.sdk import BaseOperator
from deferred_expand.iterating.spool import Spool
from deferred_expand.workers.item_output import marked_output
from deferred_expand.workers.item_try import ItemTry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.airflow_internals.sdk import MappedOperator
    from deferred_expand.workers.iterate_options import IterateOptions


class IterableOperator(BaseOperator):
    """
    Runs the author's operator once for each item.

    It stands in the place of a mapped task's instance, whose retries, pool and callbacks it has.

    :param mapped: the task, as the author has written it.
    :param over: what its items are given.
    """

    def __init__(self, *, mapped: MappedOperator, over: Any, options: IterateOptions, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._mapped, self._over, self._options = mapped, over, options
        self._try: ItemTry | None = None

    def execute(self, context: Any) -> Any:
        return self._run(context, None)

    def go_on(self, context: Any, event: dict[str, Any]) -> Any:
        """The same try, after a trigger has waited in its stead."""
        return self._run(context, event)

    def _run(self, context: Any, event: dict[str, Any] | None) -> Any:
        with closing(Spool()) as spool, contexts_apart(context), marked_output(), _loop() as loop:
            self._try = ItemTry(self._mapped, self._over, self._options, context, spool, event)
            return loop.run_until_complete(self._try.run())

    def on_kill(self) -> None:
        """Airflow calls it in the main thread, in which the items' loop runs."""
        if self._try is not None:
            self._try.kill()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """As ``asyncio.run()`` has one, which waits for threads of items that block."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
