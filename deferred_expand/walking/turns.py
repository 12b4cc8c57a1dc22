"""Source and stager one after the other, where Airflow answers one call at a time."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Sequence

    from deferred_expand.walking.staging import Encoded, Stager

_END = object()


async def in_turn(items: AsyncGenerator[Any, None], turn: asyncio.Lock) -> AsyncGenerator[Any, None]:
    """The same items, each asked for while it is the source's turn."""
    async with aclosing(items):
        while True:
            async with turn:
                item = await anext(items, _END)
            if item is _END:
                return
            yield item


class StagerInTurn:
    """Writes while it is the stager's turn."""

    def __init__(self, stager: Stager, turn: asyncio.Lock) -> None:
        self._stager = stager
        self._turn = turn
        self.seal, self.unseal = stager.seal, stager.unseal
        self.close = stager.close
        self.discard = stager.discard

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        async with self._turn:
            return await self._stager.encode(items, first_number)

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        async with self._turn:
            await self._stager.write(number, writer, batch)
