"""A stream whose source only a DAG file has: walked in a DAG file process."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from deferred_expand import settings
from deferred_expand.dag_files.orders import WalkOrder
from deferred_expand.dag_files.pool import processes
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.plain_json import write
from deferred_expand.sources.sealing import open_text
from deferred_expand.triggers.calls import call_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractContextManager

    from deferred_expand.streams.page import JSON, Page
    from deferred_expand.triggers.expansion import Expansion
    from deferred_expand.walking.walk import Walk


class _Walked:
    """What the source tells of itself, for the walk here."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.hear = walk.clock.hear
        self.hurry = walk.hurry

    @property
    def given(self) -> int:
        return self._walk.given_again

    def stopped(self) -> AbstractContextManager[None]:
        return self._walk.clock.stopped()


async def walk_dag_file(
    expansion: Expansion, source_kwargs: dict[str, Any] | str, cursor: JSON, try_number: int, walk: Walk
) -> AsyncGenerator[Page, None]:
    """
    What the source gives after the cursor, shaped, its items written down.

    :param source_kwargs: packed; sealed mostly.
    :param walk: that it is for.
    :raises SourceNotImportable: it cannot be loaded here.
    """
    definition, file = expansion.definition, expansion.dag_file
    if not settings.load_dags():
        raise SourceNotImportable(
            f"{definition.where}: only the DAG file has {definition.source} or a function that it needs, and "
            "this triggerer loads none: [deferred_expand] load_dags is False here. Set it alike for DAG "
            "processors, workers and triggerers"
        )
    if file is None:
        raise SourceNotImportable(
            f"{definition.where}: the worker has not loaded the DAG from a DAG bundle, so a triggerer cannot "
            "either. Move the source to a module that is installed"
        )
    if isinstance(source_kwargs, str):
        arguments = await call_in_thread(open_text, source_kwargs)
    else:
        arguments = write(source_kwargs)

    def order(folder: str) -> WalkOrder:
        return WalkOrder(
            folder=folder,
            bundle=file.bundle,
            file=file.path,
            definition=definition.to_json(),
            run_id=expansion.run_id,
            try_number=try_number,
            arguments=arguments,
            cursor=cursor,
            given=walk.given_again,
            unit_size=definition.unit.size,
            reads_ahead=definition.max_pending is None,
        )

    opened = processes.walk(
        file, (expansion.ref, expansion.stream), order, _Walked(walk), resumable=definition.resumable
    )
    async with aclosing(opened) as pages:
        async for page in pages:
            yield page
