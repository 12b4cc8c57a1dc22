"""
Engine, ledger and budget against a plain loop: real code, virtual time, and processes that die at any await.

What stands in for Airflow is its task state store: a dict that takes no writes of a process that is dead
(``execution_api/routes/task_state_store.py``), and some that fail.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deferred_expand.iterating.checkpoints import Checkpoints
from deferred_expand.iterating.engine import Ended, Engine, Tally
from deferred_expand.iterating.ledger import FORGET_KEY, LEDGER_KEY, Ledger
from deferred_expand.iterating.limits import Limits
from deferred_expand.iterating.places import HandOver, Item, ItemPlace
from deferred_expand.iterating.spool import Spool
from tests.unit.loop_turns import TurnLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NEVER = 10**9
CHUNK = 300  # bytes: a few rows
LATENCY = 0.05  # seconds that a write takes


@dataclass
class Store:
    """Airflow's, of one task instance."""

    records: dict[str, Any] = field(default_factory=dict)
    fails: list[bool] = field(default_factory=list)
    writes: int = 0
    rewritten: list[str] = field(default_factory=list)
    last_chunk: tuple[int, int] = (0, -1)

    def rows(self) -> dict[int, list[Any]]:
        """The last row of each item, as a reader of the documented form sees it."""
        generation = self.records.get(LEDGER_KEY, {}).get("generation", 1)
        found: dict[int, list[Any]] = {}
        number = 0
        while (rows := self.records.get(f"{LEDGER_KEY}.{generation}.{number}")) is not None:
            found |= {row[0]: row for row in rows}
            number += 1
        return {index: row for index, row in found.items() if row[2] != "forgotten"}


class Process:
    """One try's way to the store; dead, it reaches nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.dead = False

    def get(self, key: str) -> Any:
        return json.loads(json.dumps(self.store.records.get(key)))

    def set(self, key: str, value: Any) -> None:
        if self.dead:
            raise ConnectionError("no such task instance")
        store = self.store
        store.writes += 1
        if store.fails and store.fails.pop():
            raise ConnectionError("the api-server is away")
        if key.startswith(f"{LEDGER_KEY}."):
            generation, number = map(int, key.removeprefix(f"{LEDGER_KEY}.").split("."))
            if (generation, number) < store.last_chunk:
                store.rewritten.append(key)
            store.last_chunk = max(store.last_chunk, (generation, number))
        store.records[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        if self.dead:
            raise ConnectionError("no such task instance")
        self.store.records.pop(key, None)


@dataclass
class Job:
    """
    What is to be done: for each item how long it takes, and how it ends in each of its runs.

    :param hops: how long each item waits, without doing anything, one wait after the other.
    """

    items: list[tuple[float, list[str]]]
    concurrency: int = 3
    checkpoint: float = 1.0
    tolerate: int | str = 0
    hops: dict[int, list[float]] = field(default_factory=dict)

    def ends(self, index: int, run: int) -> str:
        ends = self.items[index][1]
        return ends[min(run, len(ends) - 1)]


@dataclass
class World:
    job: Job
    store: Store = field(default_factory=Store)
    runs: Counter[int] = field(default_factory=Counter)
    ended_at: dict[int, float] = field(default_factory=dict)
    tries: int = 0
    handed_over: int = 0
    walked: Counter[tuple[int, int]] = field(default_factory=Counter)

    def attempt(
        self, clear: int, dies_at: int = NEVER, digests: str = "d", told: list[int] | None = None
    ) -> tuple[Tally | None, list[Any]]:
        """
        One try; ``None``: its process died.

        :param told: items whose waits are over, where it is the same try that goes on.
        """
        self.tries += told is None
        process, spool = Process(self.store), Spool()
        self.ended_at = {}  # times are of one loop

        def die() -> None:
            process.dead = True
            main.cancel()

        loop = TurnLoop(dies_at, die, virtual_time=True)
        main = loop.create_task(self._main(process, spool, clear, digests, told or []))
        try:
            with suppress(asyncio.CancelledError, ConnectionError):
                tally = loop.run_until_complete(main)
                if not process.dead:
                    return tally, [json.loads(row.text or "") for row in spool if row.outcome == "done"]
            assert process.dead
            return None, []
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            spool.close()

    def to_the_end(
        self, clear: int, over: list[int], deaths: list[int] | None = None
    ) -> tuple[Tally | None, list[Any]]:
        """
        A try, with all its waits that somebody else has in its stead.

        :param over: how many of them are over when it goes on, each time; it may be none.
        :param deaths: when its process dies, each time.
        """
        deaths = list(deaths or [])
        tally, results = self.attempt(clear, deaths.pop() if deaths else NEVER)
        while tally is not None and tally.waiting:
            self.handed_over += 1
            count = over[self.handed_over % len(over)] if over else NEVER
            told = sorted(tally.waiting)[:count]
            tally, results = self.attempt(clear, deaths.pop() if deaths else NEVER, told=told)
        return tally, results

    async def _main(self, process: Process, spool: Spool, clear: int, digests: str, told: list[int]) -> Tally:
        ledger = Ledger(process, spool, clear, self.tries, chunk_bytes=CHUNK)
        ledger.load()
        for index in told:
            ledger.tell(index, {"outcome": "over"}, write=True)

        async def write(unwritten: Any, progress: Any) -> None:
            await asyncio.sleep(LATENCY)
            ledger.write(unwritten, progress)
            await asyncio.sleep(0)

        async def between() -> None:
            await asyncio.sleep(0)
            engine.change(Limits(self.job.concurrency, self.job.tolerate))

        limits = Limits(self.job.concurrency, self.job.tolerate)

        async def run(item: Item, place: ItemPlace) -> Ended:
            return await self._run(process, item, place, clear)

        hand_over = HandOver(after=2.0, most_items=4, most_bytes=1000)
        engine = Engine(run, ledger, limits, len(self.job.items), hand_over=hand_over)
        checkpoints = Checkpoints(ledger, write, self.job.checkpoint, engine.tally.to_json, between)
        writing = asyncio.create_task(checkpoints.run())
        try:
            tally = await engine.run(self._items(digests, ledger.left_waiting()), checkpoints)
        finally:
            checkpoints.stop()
            await writing
        for attempt in range(20):
            unwritten = ledger.take_unwritten()
            tolerance = limits.tolerance
            complete = (
                not tally.waiting
                and not tally.ended_early
                and not tolerance.is_exceeded(tally.failed, tally.ended, tally.total)
            )
            try:
                ledger.write(unwritten, tally.to_json(), complete=complete)
            except ConnectionError:
                if process.dead or attempt == 19:
                    raise
            else:
                ledger.note_written(unwritten)
                break
        return tally

    async def _items(self, digests: str, first: list[int]) -> AsyncIterator[Item]:
        for index in [*first, *(index for index in range(len(self.job.items)) if index not in first)]:
            await asyncio.sleep(0)
            yield Item(index, digests if index % 2 else "same", None)

    async def _run(self, process: Process, item: Item, place: ItemPlace, clear: int) -> Ended:
        index = item.index
        self._look_at_the_promise(item, clear)
        if item.kept is None:
            self.runs[index] += 1
        run = self.runs[index] - 1
        self._running += 1
        assert self._running <= self.job.concurrency
        try:
            if item.kept is None:
                await asyncio.sleep(self.job.items[index][0])
            await self._wait(process, item, place)
        finally:
            self._running -= 1
        if process.dead:
            raise asyncio.CancelledError
        self.ended_at[index] = asyncio.get_running_loop().time()
        end = self.job.ends(index, run)
        if end == "done":
            return Ended("done", json.dumps(index * 10))
        if end == "skipped":
            return Ended("skipped", "why not")
        return Ended("failed", "broke", error=ValueError("broke"), for_good=end == "for good")

    async def _wait(self, process: Process, item: Item, place: ItemPlace) -> None:
        hops = self.job.hops.get(item.index, [])
        kept = item.kept or {"hop": 0}
        for number in range(kept["hop"], len(hops)):
            if "outcome" not in kept:
                await place.wait(kept)
                await asyncio.sleep(hops[number])
                place.go_on()
            with place.busy():
                await asyncio.sleep(0.01)
            if not process.dead:
                self.walked[item.index, number] += 1
            kept = {"hop": number + 1}

    _running = 0

    def _look_at_the_promise(self, item: Item, clear: int) -> None:
        rows = self.store.rows()
        row = rows.get(item.index)
        if row is not None and row[1] == item.digest:
            assert row[2] in ("failed", "waiting"), "its end was written down"
            if row[4]["clear"] == clear and row[2] == "failed":
                assert row[4]["try"] < self.tries, "no retry runs it again, nor the same try"
            assert (item.kept is not None) == (row[2] == "waiting" and row[4]["clear"] == clear)
        if self.job.checkpoint:
            now = asyncio.get_running_loop().time()
            for index, at in self.ended_at.items():
                if at < now - self.job.checkpoint - 1e-6 and index != item.index:
                    assert index in rows, "it has ended for longer than a checkpoint"


ends = st.builds(
    lambda failures, end: ["failed"] * failures + [end],
    st.integers(0, 2),
    st.sampled_from(["done", "skipped", "failed", "for good"]),
)
jobs = st.builds(
    Job,
    st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.4, 3.0]), ends), max_size=14),
    concurrency=st.integers(1, 5),
    checkpoint=st.sampled_from([0, 0.2, 1.0]),
    tolerate=st.sampled_from([0, 1, 3, "10%", "50%", "100%"]),
)


def plain_loop(job: Job) -> list[int]:
    """Results of the items that end well in the end, where each is tried until it does."""
    found = []
    for index, (_, tries) in enumerate(job.items):
        last = next((end for end in tries if end != "failed"), "failed")
        if last == "done":
            found.append(index * 10)
    return found


waits = st.dictionaries(st.integers(0, 13), st.lists(st.sampled_from([0.0, 0.5, 3.0, 60.0]), max_size=3))


@settings(deadline=None, max_examples=150)
@given(jobs, waits, st.lists(st.integers(0, 3), max_size=4), st.lists(st.integers(2, 150), max_size=4))
def test_items_that_wait_and_are_waited_for_elsewhere(
    job: Job, hops: dict[int, list[float]], over: list[int], deaths: list[int]
) -> None:
    job.hops = {index: seconds for index, seconds in hops.items() if index < len(job.items)}
    job.tolerate = "100%"
    world = World(job)
    if over and not any(over):
        over.append(1)
    world.to_the_end(1, over, deaths)
    for _ in range(4):
        _, results = world.to_the_end(1, over)
        if world.store.records[LEDGER_KEY]["complete"]:
            world.store.records[LEDGER_KEY]["complete"] = False
    assert results == plain_loop(job)


def test_who_waits_is_waited_for_elsewhere_and_each_wait_is_gone_on_with_once() -> None:
    job = Job([(0.0, ["done"])] * 6, concurrency=3, hops={index: [60.0, 60.0] for index in range(6)})
    world = World(job)
    _, results = world.to_the_end(1, [2])
    assert results == [0, 10, 20, 30, 40, 50]
    assert world.handed_over >= 6
    assert set(world.runs.values()) == {1}
    assert set(world.walked.values()) == {1}


def test_a_try_that_dies_while_items_wait_leaves_them_to_the_next() -> None:
    job = Job([(0.0, ["done"])] * 3, concurrency=3, hops={index: [1.9] for index in range(3)})
    turn, begun_again = 2, []
    while True:
        world = World(job)
        lived = world.attempt(1, turn)[0] is not None
        waiting = {index for index, row in world.store.rows().items() if row[2] == "waiting"}
        world.to_the_end(1, [])
        begun_again.append(sum(world.runs.values()) - 3)
        assert all(world.runs[index] == 1 for index in waiting)
        if lived:
            break
        turn += 1
    assert max(begun_again) > 0, "no death before they were written down"
    assert begun_again[-5:] == [0] * 5


def test_too_many_have_failed_and_who_waits_is_waited_for() -> None:
    job = Job([(0.0, ["done"]), (1.0, ["failed"]), (0.0, ["done"])], concurrency=2, hops={0: [60.0]})
    world = World(job)
    tally, results = world.to_the_end(1, [])
    assert tally is not None
    assert tally.ended_early
    assert results == [0], "it was in flight"
    assert world.handed_over == 1
    assert world.runs == Counter({0: 1, 1: 1}), "the same try runs no failed item again, and takes no other"


def test_a_person_s_clear_begins_anew_also_what_has_waited() -> None:
    world = World(Job([(0.0, ["done"])], hops={0: [60.0]}))
    assert world.attempt(1)[0].waiting == {0: {"hop": 0}}  # type: ignore[union-attr]
    world.to_the_end(2, [])
    assert world.runs == Counter({0: 2})


@settings(deadline=None, max_examples=150)
@given(jobs, st.lists(st.integers(2, 150), max_size=4), st.lists(st.booleans(), max_size=6))
def test_tries_that_die_and_one_that_does_not_give_what_a_plain_loop_gives(
    job: Job, deaths: list[int], fails: list[bool]
) -> None:
    world = World(Job(job.items, job.concurrency, job.checkpoint, "100%"), Store(fails=fails))
    for dies_at in deaths:
        world.attempt(1, dies_at)
    for _ in range(4):
        _, results = world.attempt(1)
        if world.store.records[LEDGER_KEY]["complete"]:
            # Within the budget a try is complete though items failed; Airflow tries again before that.
            world.store.records[LEDGER_KEY]["complete"] = False
    assert results == plain_loop(job)


@settings(deadline=None, max_examples=100)
@given(jobs)
def test_the_budget(job: Job) -> None:
    world = World(job)
    tally, _ = world.attempt(1)
    assert tally is not None
    failing = sum(tries[0] in ("failed", "for good") for _, tries in job.items)
    exceeded = Limits(1, job.tolerate).tolerance.is_exceeded(failing, len(job.items), len(job.items))
    assert bool(tally.ended_early) == exceeded
    if exceeded:
        assert tally.failed <= Limits(1, job.tolerate).tolerance.most(len(job.items)) + job.concurrency
    else:
        assert tally.ended == len(job.items)
        assert tally.failed == failing


@settings(deadline=None, max_examples=60)
@given(jobs, st.integers(2, 120))
def test_what_runs_twice_after_a_death_was_in_flight_or_of_the_last_checkpoint(
    job: Job, dies_at: int
) -> None:
    job.items = [(seconds, ["done"]) for seconds, _ in job.items]
    world = World(job)
    world.attempt(1, dies_at)
    written, ended = set(world.store.rows()), dict(world.ended_at)
    if not job.checkpoint:
        assert len(set(ended) - written) <= job.concurrency
    first = Counter(world.runs)
    world.attempt(1)
    assert {index for index in first if world.runs[index] > 1} == set(first) - written


def test_a_death_at_each_await() -> None:
    job = Job([(0.3, ["done"])] * 5 + [(0.0, ["failed", "done"])] + [(0.2, ["for good"])], 2, 0.2, 2)
    turn, lived = 2, False
    while not lived:
        world = World(job, Store())
        lived = world.attempt(1, turn)[0] is not None
        last = world.attempt(1)
        assert last[1][:5] == [0, 10, 20, 30, 40]
        assert last[1][5:] in ([], [50]), "it fails in one try"
        turn += 1
    assert turn > 40


def test_full_chunks_are_never_written_again_and_writes_do_not_grow_with_the_items() -> None:
    world = World(Job([(0.01, ["done"])] * 400, 4, 1.0))
    world.attempt(1)
    assert len(world.store.rows()) == 400
    assert not world.store.rewritten
    assert world.store.writes < 100


def test_complete_and_cleared_all_run_again_failed_and_cleared_only_the_rest() -> None:
    world = World(Job([(0.0, ["done"])] * 3 + [(0.0, ["failed", "done", "done"])]))
    world.attempt(1)
    assert world.runs == Counter({0: 1, 1: 1, 2: 1, 3: 1})
    world.attempt(2)
    assert world.runs == Counter({0: 1, 1: 1, 2: 1, 3: 2}), "the rest"
    world.attempt(2)
    assert sum(world.runs.values()) == 5, "a retry after the last word runs none"
    world.attempt(3)
    assert world.runs == Counter({0: 2, 1: 2, 2: 2, 3: 3}), "all of them"
    keys = {key for key in world.store.records if key.startswith(f"{LEDGER_KEY}.")}
    assert keys == {f"{LEDGER_KEY}.2.0"}, "what is over is deleted"


def test_what_is_given_something_else_runs_again() -> None:
    world = World(Job([(0.0, ["done"])] * 4 + [(0.0, ["failed"])]))
    world.attempt(1)
    world.attempt(2, digests="changed")
    assert world.runs == Counter({0: 1, 1: 2, 2: 1, 3: 2, 4: 2})


def test_forgotten_items_run_again_and_no_others() -> None:
    world = World(Job([(0.0, ["done"])] * 4 + [(0.0, ["failed", "done"])], tolerate=1))
    world.attempt(1)
    assert world.store.records[LEDGER_KEY]["complete"]
    world.store.records[FORGET_KEY] = [1]
    world.attempt(2)
    assert world.runs == Counter({0: 1, 1: 2, 2: 1, 3: 1, 4: 2})
    assert FORGET_KEY not in world.store.records


def test_the_failed_alone_run_again_also_after_a_success_that_tolerated_them() -> None:
    world = World(Job([(0.0, ["done"])] * 4 + [(0.0, ["for good", "done"])], tolerate=1))
    world.attempt(1)
    world.store.records[FORGET_KEY] = "failed"
    _, results = world.attempt(2)
    assert world.runs == Counter({0: 1, 1: 1, 2: 1, 3: 1, 4: 2})
    assert results == [0, 10, 20, 30, 40]
