"""The DAG file processes of a trigger runner: one for each bundle, in each version or state of its files."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deferred_expand import settings
from deferred_expand.airflow_internals.bundles import missing_dag_retries, open_bundle, state_of
from deferred_expand.dag_files.orders import DagMissing, WalkOrder
from deferred_expand.dag_files.running import DagFileProcessDied, RunningProcess
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable

    from deferred_expand.dag_files.running import Walked
    from deferred_expand.sources.dag_file import DagFile
    from deferred_expand.streams.page import Page

log = logging.getLogger(__name__)

PLACE_POLL = 1.0  # seconds between two looks for a place


@dataclass
class _Entry:
    process: RunningProcess
    started: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    streams: set[Hashable] = field(default_factory=set)


class DagFileProcesses:
    """
    Starts them on demand, and ends each with its last stream.

    Streams that were in a process as it died are walked in processes of their own from then on, so that the
    one that kills it harms no other twice.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._alone: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def pids(self) -> list[int]:
        return [entry.process.pid for entry in self._entries.values() if entry.started.done()]

    async def walk(
        self,
        file: DagFile,
        stream: Hashable,
        order: Callable[[str], WalkOrder],
        walked: Walked,
        *,
        resumable: bool,
    ) -> AsyncGenerator[Page, None]:
        """
        What a source of a DAG file gives.

        :param stream: whose source it is.
        :param order: what to walk, given the folder of the bundle.
        :raises SourceNotImportable: it cannot be loaded here.
        """
        retries, pause = missing_dag_retries()
        while True:
            try:
                async with aclosing(self._walk_once(file, stream, order, walked, resumable)) as pages:
                    async for page in pages:
                        yield page
                return
            except DagMissing as missing:
                if retries <= 0:
                    raise SourceNotImportable(str(missing)) from missing
                retries -= 1
                log.warning("%s; it is looked for again in %g s", missing, pause)
            with walked.stopped():
                await asyncio.sleep(pause)

    async def _walk_once(
        self,
        file: DagFile,
        stream: Hashable,
        order: Callable[[str], WalkOrder],
        walked: Walked,
        resumable: bool,
    ) -> AsyncGenerator[Page, None]:
        with walked.stopped():
            folder, state = await _open(file)
        key = (file.bundle, file.version, folder, state, stream if stream in self._alone else None)
        async with (
            self._process(key, file, stream, walked) as process,
            aclosing(process.walk(order(folder), walked, resumable=resumable)) as pages,
        ):
            async for page in pages:
                yield page
        self._alone.discard(stream)

    @asynccontextmanager
    async def _process(
        self, key: Hashable, file: DagFile, stream: Hashable, walked: Walked
    ) -> AsyncIterator[RunningProcess]:
        with walked.stopped():
            entry = await self._join(key, file, stream)
        try:
            await asyncio.shield(entry.started)
            yield entry.process
        except DagFileProcessDied:
            if len(entry.streams) > 1:
                self._alone |= entry.streams
            raise
        finally:
            entry.streams.discard(stream)
            if entry.process.over and self._entries.get(key) is entry:
                del self._entries[key]
            if not entry.streams:
                if self._entries.get(key) is entry:
                    del self._entries[key]
                await entry.process.end()

    async def _join(self, key: Hashable, file: DagFile, stream: Hashable) -> _Entry:
        told = False
        while True:
            entry = self._entries.get(key)
            if entry is not None and not entry.process.over:
                entry.streams.add(stream)
                return entry
            if entry is None and len(self._entries) < settings.dag_file_processes():
                break
            if entry is not None:
                del self._entries[key]
                continue
            if not told:
                told = True
                log.warning(
                    "No process for %s: there are as many as [deferred_expand] dag_file_processes (%d) "
                    "allows. It is waited for one to end",
                    file, settings.dag_file_processes(),
                )  # fmt: skip
            await asyncio.sleep(PLACE_POLL)
        entry = _Entry(RunningProcess(file.bundle, file.version, settings.dag_file_memory()))
        entry.streams.add(stream)
        self._entries[key] = entry
        try:
            await entry.process.start()
            entry.started.set_result(None)
        except BaseException as error:
            del self._entries[key]
            entry.started.set_exception(DagFileProcessDied(f"it could not be started: {error!r}"))
            entry.started.exception()  # maybe nobody else waits
            raise
        return entry


async def _open(file: DagFile) -> tuple[str, str | None]:
    """The folder of the bundle; and the state of its files, where they have no version."""
    thread = Threads("DAG bundle")
    try:
        folder = await thread.run(open_bundle, file.bundle, file.version)
        return folder, None if file.version else await thread.run(state_of, folder)
    except Exception as error:
        raise SourceNotImportable(
            f"the triggerer cannot open DAG bundle {file.bundle!r}: {error!r}. Its [dag_processor] "
            "dag_bundle_config_list must be that of the workers. [deferred_expand] load_dags = False has "
            "sources imported from installed modules only"
        ) from error
    finally:
        thread.close()


processes = DagFileProcesses()
