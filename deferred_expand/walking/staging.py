"""What a walk needs of whoever keeps its batches."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from deferred_expand.exceptions import StagingFailed
from deferred_expand.streams.page import Position
from deferred_expand.walking.retry import Reopenings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.exceptions import ItemError
    from deferred_expand.streams.page import JSON
    from deferred_expand.walking.policy import WalkPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """
    Items written down, cut into batches that are within the size limit.

    :param sizes: of the batches in bytes, as they are stored.
    :param error: the first item that cannot be written down; the batches end before it.
    """

    batches: list[list[str]]
    sizes: list[int]
    error: ItemError | None = None


class Stager(Protocol):
    """Writes batches where a committer finds them, and cursors as they may lie there."""

    async def seal(self, cursor: JSON) -> JSON:
        """The cursor so that nobody can read it; ``None`` stays what it is."""

    def unseal(self, sealed: JSON) -> JSON:
        """The cursor that was sealed."""

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        """Write items down; ``first_number`` is the number of the first one in the stream."""

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        """Keep one batch, which nobody sees before it is committed."""

    def close(self) -> None:
        """Nothing more is to be written."""

    async def discard(self, writer: str, first: int, staged: range) -> None:
        """
        After that: delete what nobody will commit.

        :param first: number of the first batch that was written.
        :param staged: numbers of those that are not known to be committed.
        """


async def write_batch(stager: Stager, policy: WalkPolicy, number: int, writer: str, batch: list[str]) -> None:
    """
    Have a batch kept; where that raises, again after as many and as long pauses as a source gets.

    It keeps its name, so what was written and not answered is only written over. Each batch has
    retries of its own.

    :raises StagingFailed: they are used up.
    """
    retries = Reopenings(policy.source_retries, policy.retry)
    while True:
        try:
            return await stager.write(number, writer, batch)
        except Exception as error:
            delay = retries.delay(error, Position())
            if delay is None:
                raise StagingFailed(
                    f"batch {number} cannot be written: the XCom backend raised {error!r}"
                ) from error
            log.warning(
                "the XCom backend raised %r as batch %d was written; it is written again in %g s",
                error, number, delay, exc_info=True,
            )  # fmt: skip
        await asyncio.sleep(delay)
