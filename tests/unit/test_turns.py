"""In ``dag.test()`` source and stager never call Airflow at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.walking.turns import StagerInTurn, in_turn
from deferred_expand.walking.walk import Walk
from tests.unit.helpers import MemoryStager, PagedNumbers, virtual_time, walk_policy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from deferred_expand.walking.staging import Encoded


class Busy:
    """Notes who is at work."""

    def __init__(self) -> None:
        self.at_work: set[str] = set()
        self.together: list[set[str]] = []

    async def work(self, name: str) -> None:
        self.at_work.add(name)
        if len(self.at_work) > 1:
            self.together.append(set(self.at_work))
        await asyncio.sleep(0.01)
        self.at_work.discard(name)


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("taking_turns", [True, False])
async def test_source_and_stager_take_turns(taking_turns: bool) -> None:
    busy, source, turn = Busy(), PagedNumbers(pages=6, size=2), asyncio.Lock()

    class BusyStager(MemoryStager):
        async def encode(self, items: Any, first_number: int) -> Encoded:
            await busy.work("stager")
            return await super().encode(items, first_number)

        async def write(self, number: int, writer: str, batch: list[str]) -> None:
            await busy.work("stager")
            await super().write(number, writer, batch)

    async def open_source(cursor: Any) -> AsyncGenerator[Any, None]:
        async for page in source.open(cursor):
            await busy.work("source")
            yield page

    def opened(cursor: Any) -> AsyncGenerator[Any, None]:
        items = open_source(cursor)
        return in_turn(items, turn) if taking_turns else items

    memory = BusyStager()
    stager = StagerInTurn(memory, turn) if taking_turns else memory
    walk = Walk(opened, stager, walk_policy(source, batch_size=2), CommitLog("s").checkpoint)
    walk.start()
    event = await walk.all_batches()
    await walk.close()
    assert memory.items(event) == source.everything
    assert bool(busy.together) is not taking_turns
