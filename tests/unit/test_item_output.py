"""What items print."""

from __future__ import annotations

import asyncio
import io
import sys
from contextlib import redirect_stdout

import pytest
import structlog

from deferred_expand.workers.item_output import marked_output
from deferred_expand.workers.item_threads import ItemThreads


@pytest.mark.asyncio
async def test_lines_of_items_come_whole_and_marked_whatever_runs_beside() -> None:
    printed = io.StringIO()
    threads = ItemThreads("test")

    def speak(item: int) -> None:
        structlog.contextvars.bind_contextvars(item=item)
        for word in range(50):
            print("item", item, end=" ")
            print("says", word)
        print("and stops", end="")

    with redirect_stdout(printed), marked_output():
        print("before")
        await asyncio.gather(*(threads.run(speak, item) for item in range(4)))
        print("no item speaks", file=sys.stdout)
    threads.close()
    lines = printed.getvalue().splitlines()
    assert {line for line in lines if not line.startswith("[")} == {"before", "no item speaks"}
    for item in range(4):
        mark = f"[item {item}] "
        own = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        assert own == [*(f"item {item} says {word}" for word in range(50)), "and stops"]
