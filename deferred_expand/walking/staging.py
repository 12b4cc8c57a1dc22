"""What a walk needs of whoever keeps its batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.exceptions import ItemError


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
    """Writes batches where a committer finds them."""

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        """Write items down; ``first_number`` is the number of the first one in the stream."""

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        """Keep one batch, which nobody sees before it is committed."""
