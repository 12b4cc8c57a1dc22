"""A source that hangs: how long it is waited for, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from airflow.sdk import DAG

from deferred_expand import DeferredExpandOperator
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import DefinitionError
from deferred_expand.shaping.pipeline import shape
from deferred_expand.shaping.steps import Step
from deferred_expand.sources.function import walk_function
from deferred_expand.sources.hops import walk_trigger
from deferred_expand.sources.opening import open_source
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import BatchEvent, Checkpoint
from deferred_expand.streams.ref import StreamRef
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.walks import WalkOpener
from deferred_expand.walking import results, tasks
from deferred_expand.walking.pace import Pace
from deferred_expand.walking.registry import WalkRegistry
from deferred_expand.walking.results import FinishedResults
from deferred_expand.walking.retry import SourceRetry
from deferred_expand.walking.threads import Threads
from deferred_expand.walking.walk import Walk
from tests.e2e import sources
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk, virtual_time, walk_policy
from tests.unit.operators import PagingOperator, TellTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator


START = Checkpoint("s")
FOREVER = 1e6  # seconds


def now() -> float:
    return asyncio.get_running_loop().time()


async def walk_to_end(walk: Walk) -> BatchEvent:
    walk.start()
    try:
        return await walk.all_batches()
    finally:
        await walk.close()


@dataclass
class Hanging(PagedNumbers):
    """
    :param hangs: how often it hangs before it gives the page with that number.
    :param stubborn: it ignores that it is cancelled, and gives something else.
    """

    hangs: dict[int, int] = field(default_factory=dict)
    stubborn: bool = False

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        try:
            async for page in super().open(cursor):
                number = page.items[0] // self.size
                if self.hangs.get(number, 0):
                    self.hangs[number] -= 1
                    try:
                        await asyncio.sleep(FOREVER)
                    except asyncio.CancelledError:
                        if not self.stubborn:
                            raise
                        await asyncio.sleep(8)
                        yield "too late"
                yield page
        finally:
            self.closed += 1


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_page_that_does_not_come_is_asked_for_again(stubborn: bool) -> None:
    source, stager = Hanging(hangs={2: 2}, stubborn=stubborn, delay=1), MemoryStager()
    event = await walk_to_end(make_walk(source, stager, START, page_timeout=30, source_retries=2))
    assert event.ended
    assert stager.items(event) == source.everything
    assert source.opened_at == [0, 2, 2]
    assert now() > 60


@pytest.mark.asyncio
@virtual_time
async def test_a_source_that_hangs_for_good_fails_by_the_name_of_the_limit() -> None:
    source, stager = Hanging(hangs={2: 99}), MemoryStager()
    name = "source of task 'users' in DAG 'crm'"
    walk = make_walk(source, stager, START, page_timeout=30, source_retries=2, name=name)
    event = await walk_to_end(walk)
    assert event.failure is not None
    assert event.failure.message == f"{name} gave nothing for 30 s, its page_timeout"
    assert event.failure.outcome == "retry"
    assert stager.items(event) == source.everything[:6], "what came before is staged"
    assert source.opened_at == [0, 2, 2]
    assert now() == pytest.approx(30 + 1 + 30 + 2 + 30, abs=0.1)


@pytest.mark.asyncio
@virtual_time
async def test_hiccups_of_that_kind_have_the_retries_of_hiccups() -> None:
    source, stager = Hanging(hangs={1: 3, 2: 3}), MemoryStager()
    walk = make_walk(source, stager, START, page_timeout=30, retry=SourceRetry(attempts=4))
    event = await walk_to_end(walk)
    assert event.ended
    assert stager.items(event) == source.everything


@pytest.mark.asyncio
@virtual_time
async def test_a_slow_source_has_the_limit_for_each_page() -> None:
    source, stager = PagedNumbers(pages=20, delay=29), MemoryStager()
    assert (await walk_to_end(make_walk(source, stager, START, page_timeout=30))).ended
    assert source.opened_at == [0]


@pytest.mark.asyncio
@virtual_time
async def test_without_a_limit_it_waits() -> None:
    source, stager = PagedNumbers(pages=2, delay=FOREVER), MemoryStager()
    assert (await walk_to_end(make_walk(source, stager, START))).ended


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("limits", [{"page_timeout": 2.0}, {"execution_timeout": 6.0}])
async def test_a_pause_of_the_walk_itself_is_not_the_sources(limits: dict[str, float]) -> None:
    finished = 0

    async def count() -> int:
        return finished

    for pace, options in (
        (Pace(max_pending=3, finished=count), {}),
        (Pace(rate_limit=0.1), {}),
        (None, {"walk_ahead": 3}),
    ):
        source, finished = PagedNumbers(pages=4, delay=1), 0
        walk = make_walk(source, MemoryStager(), START, pace, batch_size=1, **limits, **options)
        walk.start()
        await asyncio.sleep(1000)
        assert pace is not None or source.given == [0, 1], "it is far enough ahead"
        finished = 99
        event = await walk.batches()
        assert walk.goes_on_from(
            Checkpoint("s", len(event.counts), sum(event.counts), event.position, event.writer)
        )
        await walk.close()
        assert not walk.failed
        assert walk.clock.waited < 6


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("limits", [{"page_timeout": 2.0}, {"execution_timeout": 6.0}])
async def test_the_time_that_items_take_for_their_results_is_not_the_sources(
    limits: dict[str, float],
) -> None:
    finished: set[int] = set()

    async def count() -> int:
        return len(finished)

    async def finished_of(among: Any) -> set[int]:
        return finished & set(among)

    async def result(number: int) -> int:
        return number

    seen: list[int] = []

    async def loops(cursor: Any) -> AsyncGenerator[Any, None]:
        results = FinishedResults(
            count, finished_of, result, lambda: walk.given_again, walk.hurry, outside=walk.clock.stopped
        )
        for number in range(3):
            await asyncio.sleep(1)
            yield number
            seen.extend([each async for each in results])

    walk = Walk(loops, MemoryStager(), walk_policy(PagedNumbers(), **limits), START)
    walk.start()
    for number in range(1, 4):
        await asyncio.sleep(1000)
        finished.add(number)
    event = await walk.all_batches()
    await walk.close()
    assert event.ended
    assert seen == [1, 2, 3]
    assert walk.clock.waited < 6


@pytest.mark.asyncio
@virtual_time
async def test_pages_of_which_no_item_is_kept_have_come() -> None:
    source = PagedNumbers(pages=10, delay=20, takes_cursor=False)
    thread = Threads("test")

    async def is_first(item: int) -> bool:
        return item == 0

    walk = Walk(
        lambda cursor: shape(source.open(cursor), (Step.of("filter", is_first),), thread, walk.clock.hear),
        MemoryStager(),
        walk_policy(source, page_timeout=30),
        START,
    )
    event = await walk_to_end(walk)
    thread.close()
    assert event.ended
    assert event.counts == (1,)


@pytest.mark.asyncio
@virtual_time
async def test_a_function_that_hangs_on_an_item_is_as_a_source_that_hangs() -> None:
    thread = Threads("test")

    async def hangs(item: int) -> int:
        await asyncio.sleep(FOREVER)
        return item

    source = PagedNumbers()
    walk = Walk(
        lambda cursor: shape(source.open(cursor), (Step.of("map", hangs),), thread, walk.clock.hear),
        MemoryStager(),
        walk_policy(source, page_timeout=30),
        START,
    )
    event = await walk_to_end(walk)
    thread.close()
    assert event.failure is not None
    assert "page_timeout" in event.failure.message
    assert source.closed == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("begins", [True, False])
async def test_a_thread_that_hangs_is_left_and_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    monkeypatch.setattr(tasks, "CANCEL_PATIENCE", 0.05)
    goes_on, closed, threads = threading.Event(), threading.Event(), []

    def hangs() -> Iterator[int]:
        try:
            if begins:
                yield 1
            goes_on.wait()
            yield 2
        finally:
            closed.set()

    async def opened(cursor: Any) -> AsyncGenerator[Any, None]:
        threads.append(Threads("test"))
        try:
            async for page in walk_function(hangs, {}, cursor, threads[-1]):
                yield page
        finally:
            threads[-1].close()

    source, stager = PagedNumbers(takes_cursor=False), MemoryStager()
    policy = walk_policy(source, page_timeout=0.2, source_retries=1, batch_interval=0.01)
    event = await walk_to_end(Walk(opened, stager, policy, START))
    assert event.failure is not None
    assert "gave nothing for 0.2 s, its page_timeout" in event.failure.message
    assert "what stands still in a thread cannot be ended" in event.failure.message
    assert len(threads) == 2, "each opening has a thread of its own, so the second did not wait for the first"
    assert stager.items(event) == [1] * begins, "the second opening has repeated it"
    assert not closed.is_set()
    goes_on.set()
    assert await asyncio.to_thread(closed.wait, 10), "it is closed when it returns"


REF = StreamRef("dag", "run", "users", "insert")


def hangs_in_trigger(cursor: Any, thread: Threads) -> Any:
    return open_source(
        PagingOperator, {"pages": 2, "how": "hangs"}, cursor, thread, ref=REF, try_number=1, outer=None
    )


def trigger_hangs(cursor: Any, thread: Threads) -> Any:
    return walk_trigger(lambda: TellTrigger(1, "hangs"))


@pytest.mark.asyncio
@pytest.mark.parametrize("source", [hangs_in_trigger, trigger_hangs])
async def test_operators_and_triggers_have_the_limit_for_each_hop(source: Any) -> None:
    thread = Threads("test")
    policy = walk_policy(PagedNumbers(), page_timeout=0.2)
    event = await walk_to_end(Walk(lambda cursor: source(cursor, thread), MemoryStager(), policy, START))
    thread.close()
    assert event.failure is not None
    assert "page_timeout" in event.failure.message
    assert "thread" not in event.failure.message


@pytest.mark.parametrize("given", [30, 30.0, timedelta(seconds=30)])
def test_the_limits_are_part_of_what_a_stream_is(dag: Any, given: Any) -> None:
    users = DeferredExpandOperator(
        task_id="users",
        source=sources.numbers,
        source_kwargs={"count": 1},
        page_timeout=given,
        execution_timeout=timedelta(hours=1),
    )
    assert users.definition.page_timeout == 30
    assert users.definition.execution_timeout == 3600


def test_there_is_no_limit_where_none_is_set(dag: Any) -> None:
    users = DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 1})
    assert users.definition.page_timeout is None
    assert users.definition.execution_timeout is None


@pytest.mark.parametrize("given", [0, -1, timedelta(0), "30", True, float("nan")])
def test_a_limit_that_is_none_is_refused(dag: Any, given: Any) -> None:
    with pytest.raises(DefinitionError, match="DAG 'my_dag', task 'users': page_timeout is .*; it must be a"):
        DeferredExpandOperator(
            task_id="users", source=sources.numbers, source_kwargs={"count": 1}, page_timeout=given
        )


@pytest.mark.asyncio
@virtual_time
async def test_a_batch_is_told_with_the_time_that_it_came_at_and_stays_as_it_is() -> None:
    """An event that changes would be announced again and again."""
    source, noon = PagedNumbers(pages=2, size=5, delay=100), 1767268800
    walk = make_walk(source, MemoryStager(), START, execution_timeout=1000)
    walk.start()
    with time_machine.travel(noon, tick=False):
        first = await walk.batches()
    assert first.at == noon
    with time_machine.travel(noon + 50, tick=False):
        await asyncio.sleep(50)
        assert await walk.batches() == first
    with time_machine.travel(noon + 100, tick=False):
        await walk.all_batches()
        assert (await walk.batches()).at == noon + 100
    await walk.close()


# -- execution_timeout of the unmapped task ---------------------------------------------------------


@pytest.mark.asyncio
@virtual_time
async def test_all_that_a_try_waits_for_its_source_is_limited() -> None:
    source, stager = PagedNumbers(pages=100, delay=10), MemoryStager()
    name = "source of task 'users' in DAG 'crm'"
    walk = make_walk(source, stager, START, execution_timeout=35, source_retries=9, name=name)
    event = await walk_to_end(walk)
    assert event.failure is not None
    assert event.failure.message == (
        f"{name} was waited for longer than the execution_timeout of the task, 35 s in all"
    )
    assert event.failure.outcome == "retry"
    assert now() == pytest.approx(35, abs=0.1)
    assert (source.opened_at, source.closed) == ([0], 1), "it is not opened again"
    assert stager.items(event) == source.everything[:9], "what came before is staged"
    assert stager.closed


@pytest.mark.asyncio
@virtual_time
async def test_the_pauses_before_a_source_is_opened_again_count() -> None:
    source = PagedNumbers(breaks={0: 99})
    walk = make_walk(source, MemoryStager(), START, execution_timeout=10, source_retries=9)
    event = await walk_to_end(walk)
    assert event.failure is not None
    assert "execution_timeout" in event.failure.message
    assert len(source.opened_at) == 4, "after 0, 1, 3 and 7 seconds"
    assert now() == pytest.approx(10, abs=0.1)


@pytest.mark.asyncio
@virtual_time
async def test_what_the_same_try_has_waited_before_counts() -> None:
    source, stager = PagedNumbers(pages=100, delay=10), MemoryStager()
    policy = walk_policy(source, execution_timeout=35, batch_size=3)
    walk = Walk(source.open, stager, policy, START, waited=20)
    walk.start()
    await asyncio.sleep(12)
    event = await walk.batches()
    assert event.waited == pytest.approx(30, abs=0.1), "is committed with the batch"
    assert (await walk.all_batches()).failure is not None
    assert now() == pytest.approx(15, abs=0.1)
    await walk.close()


@pytest.mark.asyncio
@virtual_time
async def test_another_try_that_goes_on_with_the_walk_waits_anew() -> None:
    source, registry = PagedNumbers(pages=100, delay=10), WalkRegistry()
    opened: list[Walk] = []

    def open_walk() -> Walk:
        opened.append(make_walk(source, MemoryStager(), START, batch_size=3, execution_timeout=35))
        return opened[-1]

    async def wanted() -> bool:
        return True

    for generation, expected in ((1, 10), (1, 20), (2, 0)):
        async with registry.hold("key", generation, START, open_walk, wanted, idle_timeout=60) as walk:
            assert (await walk.batches()).waited == pytest.approx(expected, abs=0.1)
            await asyncio.sleep(12)
    assert now() == pytest.approx(46, abs=0.1), "the second try began at 34 s"
    await asyncio.sleep(22)
    assert not walk.failed
    await asyncio.sleep(2)
    assert walk.failed
    assert len(opened) == 1


def test_what_a_try_has_waited_is_committed_with_its_batches() -> None:
    first = plan_commit(CommitLog("s"), BatchEvent("s", "w", 0, (3,), START.position, waited=12.5), 1)
    assert first is not None
    log = CommitLog.from_json(json.loads(json.dumps(first.log.to_json())))
    assert log.waited_in(try_number=1) == 12.5
    assert log.waited_in(try_number=2) == 0
    second = plan_commit(log, BatchEvent("s", "w", 1, (3,), START.position, waited=2.0), 2)
    assert second is not None
    assert (second.log.waited_in(1), second.log.waited_in(2)) == (0, 2)


def test_the_defaults_of_a_dag_limit_a_source_and_no_stream_made_of_it() -> None:
    with DAG("my_dag", schedule=None, default_args={"execution_timeout": timedelta(hours=1)}):
        users = DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 1})
        joined = users.output.concat(users.output)
    assert users.definition.execution_timeout == 3600
    assert joined.stream.definition.execution_timeout is None


# -- as a triggerer puts it together ----------------------------------------------------------------


@pytest.fixture
def expansion(dag: Any) -> Expansion:
    users = DeferredExpandOperator(
        task_id="users", source=sources.numbers, source_kwargs={"count": 1}, page_timeout=1, source_retries=0
    )
    definition = replace(users.definition, dag_id=DAG_ID, mapped_task_id="insert", batch_interval=0.01)
    return Expansion(definition, RUN_ID, "s", for_head=True)


@pytest.mark.asyncio
async def test_a_streams_limits_are_its_walks(expansion: Expansion, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the source waits for its items, and what its steps drop, is not taken for a source that hangs."""
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    monkeypatch.setattr(results, "RESULTS_POLL", 0.05)
    monkeypatch.setattr(results, "RESULTS_REST", 0)
    thread = Threads("test")

    async def searches(cursor: Any) -> AsyncGenerator[int, None]:
        yield 0
        async for _ in opener.results(thread):
            pass
        for number in range(1, 5):
            await asyncio.sleep(0.5)
            yield number
        await asyncio.sleep(FOREVER)

    async def is_zero(number: int) -> bool:
        return number == 0

    opener = WalkOpener(expansion, searches, resumable=False, steps=(Step.of("filter", is_zero),))
    StreamStore(expansion.ref).write_log(CommitLog("s"))
    airflow.tables.instances |= {("insert", 0): "deferred", ("insert", 1): "running"}
    walk = opener.open(CommitLog("s"), waited=3.0)
    walk.start()
    began = now()
    assert (await walk.batches()).counts == (1,)
    await asyncio.sleep(2)
    assert not walk.failed, "it waits for its item"
    airflow.tables.instances["insert", 1] = "success"
    failure = (await walk.all_batches()).failure
    await walk.close()
    thread.close()
    assert failure is not None
    assert failure.message == "source of task 'users' in DAG 'dag' gave nothing for 1 s, its page_timeout"
    assert now() - began > 2 + 4 * 0.5 + 1
    assert walk.clock.waited > 3 + 4 * 0.5 + 1
