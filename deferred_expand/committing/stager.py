"""Writes a walk's batches to the stream's store, without blocking the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.committing.codec import encode_batches
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.streams.commit_index import batch_name
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.committing.store import StreamStore
    from deferred_expand.streams.page import JSON
    from deferred_expand.walking.staging import Encoded


class XComStager:
    """
    Implements :class:`~deferred_expand.walking.staging.Stager` with XComs.

    It has a thread of its own: an XCom backend that stands still stalls no other stream, and steps that
    take their time do not hold back what is shaped already.
    """

    def __init__(self, store: StreamStore, stream: str, max_bytes: int) -> None:
        self._store = store
        self._stream = stream
        self._thread = Threads("stager")
        self._max_bytes = max_bytes

    async def seal(self, cursor: JSON) -> JSON:
        return None if cursor is None else await self._thread.run(seal, cursor)

    def unseal(self, sealed: JSON) -> JSON:
        return None if sealed is None else unseal(str(sealed))

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        return await self._thread.run(encode_batches, items, first_number, self._max_bytes)

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        await self._thread.run(self._store.write_batch, batch_name(number, writer), batch)

    def close(self) -> None:
        self._thread.close()

    async def discard(self, writer: str, first: int, staged: range) -> None:
        thread = Threads("stager")
        try:
            await thread.run(self._store.delete_lost, self._stream, writer, first, staged)
        finally:
            thread.close()
