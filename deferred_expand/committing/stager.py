"""Writes a walk's batches to the stream's store, without blocking the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.committing.codec import encode_batches
from deferred_expand.streams.commit_log import batch_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.committing.store import StreamStore
    from deferred_expand.walking.staging import Encoded
    from deferred_expand.walking.threads import Threads


class XComStager:
    """Implements :class:`~deferred_expand.walking.walk.Stager` with XComs."""

    def __init__(self, store: StreamStore, threads: Threads, max_bytes: int) -> None:
        self._store = store
        self._threads = threads
        self._max_bytes = max_bytes

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        return await self._threads.run(encode_batches, items, first_number, self._max_bytes)

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        await self._threads.run(self._store.write_batch, batch_name(number, writer), batch)
