"""Following a stream from outside: what is believed of it, and when it is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.committing.status import StreamStatus
from deferred_expand.exceptions import SourceGaveUp, SourceSkipped, StreamError
from deferred_expand.shaping.follow import CommittedStream, zip_streams
from deferred_expand.walking.threads import Threads
from deferred_expand.workers.reader import StreamReader
from tests.memory_airflow import MemoryAirflow
from tests.unit.parent import HEAD, INSERT, OPENER, Parent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

pytestmark = pytest.mark.asyncio


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    return airflow


@pytest.fixture
def parent(airflow: MemoryAirflow) -> Parent:
    parent = Parent(airflow)
    parent.open()
    return parent


@pytest.fixture
def thread() -> Iterator[Threads]:
    thread = Threads("test")
    yield thread
    thread.close()


async def followed(parent: Parent, thread: Threads, meanwhile: Any = None) -> list[int]:
    """:param meanwhile: called once, when a first batch was taken."""
    items: list[int] = []
    async for batch in CommittedStream(parent.ref, thread).batches(0):
        items += batch
        if meanwhile is not None:
            meanwhile()
            meanwhile = None
    return items


async def test_one_that_is_held_back_misses_nothing_of_a_parent_that_ends_meanwhile(
    parent: Parent, thread: Threads
) -> None:
    parent.commit(1, 2)

    def ends() -> None:
        parent.commit(3)
        parent.commit(4, 5, ended=True)
        parent.states[HEAD] = "success"

    assert await followed(parent, thread, ends) == [1, 2, 3, 4, 5]


async def test_what_a_person_marks_as_success_ends_where_it_is(parent: Parent, thread: Threads) -> None:
    parent.commit(1, 2)
    parent.states[HEAD] = "success"
    assert await followed(parent, thread) == [1, 2]


async def test_a_failed_parent_is_told_with_the_number_it_had_reached(
    parent: Parent, thread: Threads
) -> None:
    parent.commit(1, 2)
    parent.states[HEAD] = "failed"
    with pytest.raises(SourceGaveUp, match="'users' has ended as failed after 2 item"):
        await followed(parent, thread)


async def test_a_skipped_parent_is_skipped(parent: Parent, thread: Threads) -> None:
    parent.states[HEAD] = "skipped"
    with pytest.raises(SourceSkipped):
        await followed(parent, thread)


@pytest.mark.parametrize("state", ["upstream_failed", "skipped"])
async def test_a_mapped_task_that_was_never_expanded_is_over(
    airflow: MemoryAirflow, thread: Threads, state: str
) -> None:
    parent = Parent(airflow)
    parent.states[OPENER] = "failed"
    del parent.states[HEAD]
    parent.states[INSERT, -1] = state
    with pytest.raises((SourceGaveUp, SourceSkipped)):
        await followed(parent, thread)
    with pytest.raises(StreamError, match=f"has ended as {state}"):
        list(StreamReader(parent.store, (), drops=False))


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "running", "up_for_retry"])
async def test_the_log_of_an_earlier_run_is_not_believed(parent: Parent, state: str | None) -> None:
    parent.commit(1, 2, ended=True)
    parent.states[HEAD] = None  # cleared with it
    parent.states[OPENER] = state
    status = StreamStatus.read(parent.store)
    assert status.log is None
    assert not status.is_over
    parent.states[OPENER] = "success"
    status = StreamStatus.read(parent.store)
    assert status.log is not None
    assert status.is_over


@pytest.mark.parametrize("state", ["upstream_failed", "skipped"])
async def test_nor_is_it_when_the_stream_is_not_opened_again(
    parent: Parent, thread: Threads, state: str
) -> None:
    parent.commit(1, 2, ended=True)
    parent.states[HEAD] = parent.states[OPENER] = state
    with pytest.raises((SourceGaveUp, SourceSkipped)):
        await followed(parent, thread)


async def test_a_stream_that_its_own_task_walks_is_read_while_that_is_deferred(
    airflow: MemoryAirflow, thread: Threads
) -> None:
    parent = Parent(airflow, None)
    parent.open()
    parent.states[OPENER] = "deferred"
    parent.commit(1)

    def ends() -> None:
        parent.commit(2, ended=True)
        parent.states[OPENER] = "success"

    assert await followed(parent, thread, ends) == [1, 2]


async def test_a_zip_of_which_one_fails_does_not_wait_for_the_other() -> None:
    closed = []

    class Gives:
        def __init__(self, name: str) -> None:
            self.name = name

        async def batches(self, taken: int) -> AsyncGenerator[list[Any], None]:
            try:
                if self.name == "fails":
                    raise SourceGaveUp("for good")
                await asyncio.Event().wait()
                yield []
            finally:
                closed.append(self.name)

    with pytest.raises(SourceGaveUp, match="for good"):
        async for _ in zip_streams([Gives("waits"), Gives("fails")], [0, 0], False, False, None):
            pass
    assert closed == ["fails", "waits"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
