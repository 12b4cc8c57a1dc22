"""A walk and an expander: what is announced, what is followed, when a worker is asked."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.airflow_internals.sdk import mask_secret
from deferred_expand.committing.board import CommitBoard
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import Announcement, Checkpoint, WalkState
from deferred_expand.triggers import handover
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.handover import ExpanderHandover, Overtaken
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk
from tests.unit.test_persisted_forms import DEFINITION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.asyncio

EXPANSION = Expansion(DEFINITION, "run", "s", for_head=True)


@dataclass
class MemoryExpander:
    """Commits announcements to a log in memory, as the expander does in the database."""

    board: CommitBoard = field(default_factory=CommitBoard)
    log: CommitLog | None = field(default_factory=lambda: CommitLog("s"))
    announced: Announcement | None = None
    heed: Callable[[Announcement], bool] = lambda announcement: True
    holds_back_the_end: bool = False

    async def announce(self, announcement: Announcement) -> None:
        self.announced = announcement

    async def read_log(self) -> CommitLog | None:
        return self.log

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()

    async def _work(self) -> None:
        while True:
            self.board.beat()
            self.board.note_look()
            await asyncio.sleep(0.02)
            if self.log and self.announced and self.heed(self.announced):
                event = self.announced.event
                event = replace(event, ended=event.ended and not self.holds_back_the_end)
                plan = plan_commit(self.log, event, 1)
                if plan is not None:
                    self.log = plan.log
                    self.board.note_commit(EXPANSION.board_name)

    def handover(self, **options: Any) -> ExpanderHandover:
        given = {"most_items": 1000, "patience": 0.5, **options}
        return ExpanderHandover(self.board, EXPANSION, self.announce, self.read_log, **given)


async def test_it_follows_until_the_end_is_committed() -> None:
    expander, source, stager = MemoryExpander(), PagedNumbers(pages=5, delay=0.05), MemoryStager()
    walk = make_walk(source, stager, Checkpoint("s"), batch_size=3)
    walk.start()
    async with expander.at_work():
        log = await expander.handover().run(walk)
    assert log is not None
    assert (log.ended, log.items, log.batches) == (True, 15, 5)
    assert source.given == [0, 1, 2, 3, 4]
    assert expander.board.pending == 0
    await walk.close()


async def test_an_expander_that_does_not_commit_is_left_within_its_time_with_all_that_is_staged() -> None:
    expander = MemoryExpander(heed=lambda announcement: False)
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    async with expander.at_work():
        assert await asyncio.wait_for(expander.handover(patience=0.5).run(walk), 5) is None
    assert sum((await walk.all_batches()).counts) == 12
    await walk.close()


async def test_the_end_of_a_stream_may_wait_for_the_scheduler() -> None:
    expander = MemoryExpander(holds_back_the_end=True)
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    async with expander.at_work():
        handing_over = asyncio.create_task(expander.handover(patience=0.5).run(walk))
        await asyncio.sleep(1.5)
        assert expander.log is not None
        assert expander.log.items == 12
        assert not handing_over.done(), "longer than for batches"
        expander.holds_back_the_end = False
        log = await asyncio.wait_for(handing_over, 5)
    assert log is not None
    assert log.ended
    await walk.close()


async def test_an_expander_that_is_gone_is_left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expander = MemoryExpander()
    monkeypatch.setattr(CommitBoard, "is_alive", property(lambda board: False))
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    assert await asyncio.wait_for(expander.handover(patience=999).run(walk), 5) is None
    assert expander.announced is None
    await walk.close()


async def test_without_a_fallback_it_waits_for_an_expander_to_come() -> None:
    expander = MemoryExpander()
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    handing_over = asyncio.create_task(expander.handover(patience=math.inf).run(walk))
    await asyncio.sleep(0.5)
    assert not handing_over.done()
    async with expander.at_work():
        log = await asyncio.wait_for(handing_over, 5)
    assert log is not None
    assert log.items == 12
    await walk.close()


async def test_a_failed_sources_last_batches_are_committed_before_a_worker_is_asked() -> None:
    expander, source = MemoryExpander(), PagedNumbers(pages=4, breaks={3: 9})
    walk = make_walk(source, MemoryStager(), Checkpoint("s"))
    walk.start()
    async with expander.at_work():
        assert await asyncio.wait_for(expander.handover(patience=math.inf).run(walk), 5) is None
    event = await walk.batches()
    assert event.failure is not None
    assert event.counts == ()
    assert expander.log is not None
    assert (expander.log.items, expander.log.failure) == (9, None), "to note a failure is the worker's"
    await walk.close()


async def test_an_announcement_that_another_one_wrote_over_is_made_again() -> None:
    expander = MemoryExpander()
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    handing_over = asyncio.create_task(expander.handover(patience=math.inf).run(walk))
    await asyncio.sleep(1)
    assert expander.announced is not None
    assert expander.announced.event.ended
    expander.announced = None
    async with expander.at_work():
        log = await asyncio.wait_for(handing_over, 5)
    assert log is not None
    assert log.items == 12
    await walk.close()


async def test_a_stream_without_items_ends() -> None:
    expander = MemoryExpander()
    walk = make_walk(PagedNumbers(pages=0), MemoryStager(), Checkpoint("s"))
    walk.start()
    async with expander.at_work():
        log = await asyncio.wait_for(expander.handover(patience=math.inf).run(walk), 5)
    assert log is not None
    assert (log.items, log.ended) == (0, True)
    await walk.close()


async def test_a_walk_that_was_overtaken_stops() -> None:
    other = CommitLog("s", batches=1, items=4, writer="someone else")
    expander = MemoryExpander(log=other, heed=lambda announcement: False)
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"), batch_size=5)
    walk.start()
    expander.board.note_commit(EXPANSION.board_name)
    async with expander.at_work():
        handing_over = asyncio.create_task(expander.handover(patience=math.inf).run(walk))
        await asyncio.sleep(0.2)
        expander.board.note_commit(EXPANSION.board_name)
        with pytest.raises(Overtaken):
            await asyncio.wait_for(handing_over, 5)
    await walk.close()


async def test_more_items_than_the_task_may_have_are_for_a_worker_to_refuse() -> None:
    expander = MemoryExpander()
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    async with expander.at_work():
        assert await expander.handover(most_items=7).run(walk) is None
    assert expander.log is not None
    assert expander.log.items <= 7
    await walk.close()


async def test_a_walk_whose_stream_was_cleared_stops() -> None:
    expander = MemoryExpander(log=None)
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    with pytest.raises(Overtaken):
        await asyncio.wait_for(expander.handover(patience=math.inf).run(walk), 5)
    await walk.close()


async def test_a_commit_that_the_board_does_not_tell_of_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    expander = MemoryExpander()
    monkeypatch.setattr(expander.board, "note_commit", lambda stream: None)
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    async with expander.at_work():
        log = await asyncio.wait_for(expander.handover(patience=math.inf).run(walk), 10)
    assert log is not None
    assert (log.items, log.ended) == (12, True)
    await walk.close()


async def test_an_expander_with_many_streams_is_given_the_time_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expander = MemoryExpander(heed=lambda announcement: False)
    monkeypatch.setattr(expander.board, "note_look", lambda: None)
    walk = make_walk(PagedNumbers(), MemoryStager(), Checkpoint("s"))
    walk.start()
    async with expander.at_work():
        handing_over = asyncio.create_task(expander.handover(patience=0.2).run(walk))
        await asyncio.sleep(1)
        assert not handing_over.done(), "it is at work, and has not come by yet"
        monkeypatch.undo()
        assert await asyncio.wait_for(handing_over, 5) is None
    await walk.close()


async def test_what_a_walk_waits_for_is_told_while_there_is_nothing_to_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handover, "STATE_INTERVAL", 0.05)
    expander = MemoryExpander()
    source = PagedNumbers(pages=3, size=2, breaks={1: 1})
    walk = make_walk(source, MemoryStager(), Checkpoint("s"), source_retries=1, batch_size=2)
    walk.start()

    def told() -> WalkState | None:
        return expander.announced.walk if expander.announced else None

    async with expander.at_work():
        handing_over = asyncio.create_task(expander.handover(patience=math.inf).run(walk))
        for _ in range(100):
            await asyncio.sleep(0.05)
            if (state := told()) is not None and state.reopened:
                break
        assert (state.waits_for, state.reopened, state.given) == ("retry", 1, 2) if state else False
        assert await handing_over is not None
    await walk.close()


async def test_of_an_error_the_secrets_are_gone_before_it_is_cut() -> None:
    mask_secret("open sesame of the walk")
    text = "x" * (handover.LONGEST_ERROR - 8) + "open sesame of the walk" + "y" * 100
    told = handover._shown(WalkState(1, "retry", 0, 1, text)).error
    assert told is not None
    assert "open" not in told
    assert len(told) <= handover.LONGEST_ERROR
