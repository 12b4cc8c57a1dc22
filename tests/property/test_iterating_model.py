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
from deferred_expand.iterating.engine import Ended, Engine, Item, Tally
from deferred_expand.iterating.ledger import FORGET_KEY, LEDGER_KEY, Ledger
from deferred_expand.iterating.limits import Limits
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
    """What is to be done: for each item how long it takes, and how it ends in each of its runs."""

    items: list[tuple[float, list[str]]]
    concurrency: int = 3
    checkpoint: float = 1.0
    tolerate: int | str = 0

    def ends(self, index: int, run: int) -> str:
        ends = self.items[index][1]
        return ends[min(run, len(ends) - 1)]


@dataclass
class World:
    job: Job
    store: Store = field(default_factory=Store)
    runs: Counter[int] = field(default_factory=Counter)
    ended_at: dict[int, float] = field(default_factory=dict)

    def attempt(self, clear: int, dies_at: int = NEVER, digests: str = "d") -> tuple[Tally | None, list[Any]]:
        """One try; ``None``: its process died."""
        process, spool = Process(self.store), Spool()
        self.ended_at = {}  # times are of one loop

        def die() -> None:
            process.dead = True
            main.cancel()

        loop = TurnLoop(dies_at, die, virtual_time=True)
        main = loop.create_task(self._main(process, spool, clear, digests))
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

    async def _main(self, process: Process, spool: Spool, clear: int, digests: str) -> Tally:
        ledger = Ledger(process, spool, clear, chunk_bytes=CHUNK)
        ledger.load()

        async def write(unwritten: Any, progress: Any) -> None:
            await asyncio.sleep(LATENCY)
            ledger.write(unwritten, progress)
            await asyncio.sleep(0)

        async def between() -> None:
            await asyncio.sleep(0)

        limits = Limits(self.job.concurrency, self.job.tolerate)
        engine = Engine(lambda item: self._run(process, item, clear), ledger, limits, len(self.job.items))
        checkpoints = Checkpoints(ledger, write, self.job.checkpoint, engine.tally.to_json, between)
        writing = asyncio.create_task(checkpoints.run())
        try:
            tally = await engine.run(self._items(digests), checkpoints)
        finally:
            checkpoints.stop()
            await writing
        for attempt in range(20):
            unwritten = ledger.take_unwritten()
            tolerance = limits.tolerance
            complete = not tally.ended_early and not tolerance.is_exceeded(
                tally.failed, tally.ended, tally.total
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

    async def _items(self, digests: str) -> AsyncIterator[Item]:
        for index in range(len(self.job.items)):
            await asyncio.sleep(0)
            yield Item(index, digests if index % 2 else "same", None)

    async def _run(self, process: Process, item: Item, clear: int) -> Ended:
        index = item.index
        self._look_at_the_promise(item, clear)
        run = self.runs[index]
        self.runs[index] += 1
        self._running += 1
        assert self._running <= self.job.concurrency
        try:
            await asyncio.sleep(self.job.items[index][0])
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

    _running = 0

    def _look_at_the_promise(self, item: Item, clear: int) -> None:
        rows = self.store.rows()
        row = rows.get(item.index)
        if row is not None and row[1] == item.digest:
            assert row[2] == "failed", "its end was written down"
            assert row[4]["clear"] != clear, "no retry runs it again"
        if self.job.checkpoint:
            now = asyncio.get_running_loop().time()
            for index, at in self.ended_at.items():
                if at < now - self.job.checkpoint - 1e-6 and index != item.index:
                    failed = self.job.ends(index, self.runs[index] - 1) == "failed"
                    assert failed or index in rows, "it has ended for longer than a checkpoint"


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
