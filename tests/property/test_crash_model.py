"""
A model of one stream without a running Airflow: walks in several triggerers, both committers, the
scheduler and the items, over a database in memory.

Source, walk, staging, commit log, the expander's commit and the stream head are the real ones. Every
process may die between any two of its calls and at any ``await``; calls arrive twice; events come late;
passes of the scheduler begin before a commit and end after it. What is committed is at every moment the
beginning of what the source gives; in the end it is all of it, and each item was carried by one instance.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException, TaskDeferred
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deferred_expand import DeferredExpandOperator
from deferred_expand.airflow_internals.sdk import count_task_instances
from deferred_expand.committing.codec import encode_item
from deferred_expand.committing.store import StreamRef, StreamStore
from deferred_expand.exceptions import ItemsRemoved, SourceError
from deferred_expand.operators.head import StreamHeadOperator
from deferred_expand.plugin.commit import commit_announced, restore_removed
from deferred_expand.plugin.passes import SchedulerPasses
from deferred_expand.streams import commit_log
from deferred_expand.streams.commit_log import CommitLog, batch_name
from deferred_expand.streams.events import Announcement, BatchEvent
from deferred_expand.walking.staging import Encoded
from tests.e2e import sources
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow, MemoryRecords, ProcessDied, SchedulerPass
from tests.unit.helpers import PagedNumbers, make_walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.walking.walk import Walk

SPAN = 7  # items of an index page, so that a short stream has several
USERS, INSERT = "users", "insert"
REF = StreamRef(DAG_ID, RUN_ID, USERS, INSERT)
HEAD = (INSERT, 0)
awaits = st.integers(0, 60)
calls = st.none() | st.integers(0, 8)


class Stager:
    """Writes batches as XComs; the walk goes on meanwhile."""

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        await asyncio.sleep(0)
        return Encoded([[encode_item(item, number) for number, item in enumerate(items, first_number)]])

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        await asyncio.sleep(0)
        StreamStore(REF).write_batch(batch_name(number, writer), batch)
        await asyncio.sleep(0)


class Stream(RuleBasedStateMachine):
    """One stream, from its opening to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(commit_log, "INDEX_SPAN", SPAN)
        self.loop = asyncio.new_event_loop()
        self.airflow = MemoryAirflow()
        self.airflow.install(self.patches)
        with DAG(DAG_ID, schedule=None):
            users = DeferredExpandOperator(
                task_id=USERS, source=sources.numbers, source_kwargs={"count": 1}, materialize="auto"
            )
            self.patches.setattr(type(users), "mapped_task_id", INSERT)
            self.head = StreamHeadOperator(task_id="head", stream=users)
        self.triggerer = 0  # that the head's trigger is assigned to
        self.passes = {0: SchedulerPasses()}
        self.try_number = 1
        self.old: list[Walk] = []  # of triggerers that were taken over and do not know it
        self.events: list[BatchEvent] = []  # that were sent once
        self.scheduler: SchedulerPass | None = None
        self.carried: dict[int, set[int]] = {}  # by instance

    @initialize(
        pages=st.integers(0, 8),
        size=st.integers(0, 4),
        takes_cursor=st.booleans(),
        batch_size=st.integers(1, 6),
        ends_at_worker=st.booleans(),
    )
    def open(self, pages: int, size: int, takes_cursor: bool, batch_size: int, ends_at_worker: bool) -> None:
        self.source = PagedNumbers(pages=pages, size=size, takes_cursor=takes_cursor)
        self.batch_size = batch_size
        self.ends_at_worker = ends_at_worker
        self.store = StreamStore(REF)
        self.store.write_log(CommitLog("s"), mapped_length=1)
        self.airflow.tables.instances = {(USERS, -1): "success", HEAD: "deferred"}
        self.walk = self.start_walk()

    # -- what processes do ------------------------------------------------------------------------

    @property
    def log(self) -> CommitLog:
        log = self.store.read_log()
        assert log is not None
        return log

    @property
    def head_state(self) -> str | None:
        return self.airflow.tables.instances[HEAD]

    @head_state.setter
    def head_state(self, state: str | None) -> None:
        self.airflow.tables.instances[HEAD] = state

    def start_walk(self) -> Walk:
        """Where the assigned trigger starts: from the last checkpoint."""
        walk = make_walk(
            self.source,
            Stager(),  # type: ignore[arg-type]
            self.log.checkpoint,
            batch_size=self.batch_size,
            batch_interval=1e-6,
            walk_ahead=3 * self.batch_size,
        )
        self.walk_try = self.try_number
        self.loop.call_soon(walk.start)
        self.run(1)
        return walk

    def run(self, count: int) -> None:
        """To some ``await`` of some task."""
        for _ in range(count):
            self.loop.run_until_complete(asyncio.sleep(0))

    def join(self) -> None:
        """The next trigger goes on with the walk, or opens a new one (walking/registry.py)."""
        failed_before = self.walk.failed and self.walk_try != self.try_number
        if failed_before or not self.walk.goes_on_from(self.log.checkpoint):
            self.loop.run_until_complete(self.walk.close())
            self.walk = self.start_walk()

    def announce(self) -> None:
        event = self.walk._event()
        if event.failure is None or event.counts:
            event = BatchEvent(**{**vars(event), "failure": None})
            self.store.announce(Announcement(str(self.triggerer), USERS, time.time(), event))

    def let_expander_commit(self) -> None:
        """One transaction, for whom the trigger is assigned to."""
        records: Any = MemoryRecords(self.airflow, INSERT)
        passes = self.passes[self.triggerer]
        head: Any = type("Head", (), {"task_id": INSERT, "map_index": 0, "try_number": self.try_number})
        run: Any = type("Run", (), {"context_carrier": None})
        restore_removed(records, head)
        may_end = passes.is_over(HEAD, self.airflow.tables.last_scheduling_decision)
        committed = commit_announced(records, run, head, str(self.triggerer), may_end=may_end)
        records.commit()
        if committed is not None and committed.grew:
            passes.note_growth(HEAD)

    def let_worker(self, *, event: BatchEvent | None, dies_after: int | None = None) -> None:
        """Resume the head with an event, or start it, on a worker that may die before it is done."""
        self.head_state = "running"
        context = self.airflow.context(map_index=0, try_number=self.try_number)
        self.airflow.dies_after = dies_after
        try:
            if event is None:
                self.head.execute(context)
            else:
                self.head.commit(context, json.loads(json.dumps(event.to_json())))
        except TaskDeferred:
            self.head_state = "deferred"
        except AirflowRescheduleException:
            self.head_state = "up_for_reschedule"
        except AirflowSkipException:
            self.head_state = "skipped"
        except ItemsRemoved:
            self.clear_the_mapped_task()
        except (SourceError, ProcessDied):  # as the source, or this model, made it fail
            self.head_state = "up_for_retry"
        else:
            self.head_state = "success"
        finally:
            self.airflow.dies_after, self.airflow.repeats = None, False
        self.start_head_again()

    def clear_the_mapped_task(self) -> None:
        """The remedy that the message names."""
        for place in self.airflow.tables.instances:
            if place[0] == INSERT:
                self.airflow.tables.instances[place] = None
        self.head_state = "up_for_retry"

    def start_head_again(self) -> None:
        """As the scheduler does; a new try where one has failed."""
        if self.head_state == "up_for_retry":
            self.try_number += 1
        if self.head_state in ("up_for_retry", "up_for_reschedule"):
            if self.scheduler is not None:  # passes over one run follow one another
                self.the_scheduler_commits()
            SchedulerPass(self.airflow, USERS, INSERT).commit()
            self.let_worker(event=None)
        elif self.head_state == "deferred":
            self.join()

    # -- what happens -----------------------------------------------------------------------------

    @rule(count=awaits)
    def go_on(self, count: int) -> None:
        self.run(count)

    @precondition(lambda self: self.head_state == "deferred")
    @rule(announces=st.booleans())
    def expander_commits(self, announces: bool) -> None:
        if announces:
            self.announce()
        self.let_expander_commit()
        self.join()

    @precondition(lambda self: self.head_state == "deferred")
    @rule()
    def trigger_ends_the_head(self) -> None:
        log = self.log
        if log.ended and count_task_instances(DAG_ID, RUN_ID, INSERT) > log.items:
            self.head_state = "success" if log.items else "skipped"

    @precondition(lambda self: self.head_state == "deferred")
    @rule(dies_after=calls, repeats=st.booleans(), count=awaits)
    def worker_commits_and_may_die(self, dies_after: int | None, repeats: bool, count: int) -> None:
        event = self.walk._event()
        self.events.append(event)
        self.run(count)  # the walk goes on meanwhile
        self.airflow.repeats = repeats
        self.let_worker(event=event, dies_after=dies_after)

    @precondition(lambda self: self.events and self.head_state == "deferred")
    @rule(data=st.data(), dies_after=calls)
    def an_event_comes_twice_or_late(self, data: st.DataObject, dies_after: int | None) -> None:
        self.let_worker(event=data.draw(st.sampled_from(self.events)), dies_after=dies_after)

    @rule(batch_size=st.integers(1, 6))
    def the_triggerer_dies(self, batch_size: int) -> None:
        self.batch_size = batch_size  # what makes a batch depends on time and size
        self.passes[self.triggerer] = SchedulerPasses()
        self.loop.run_until_complete(self.walk.close())
        self.walk = self.start_walk()

    @rule(batch_size=st.integers(1, 6))
    def another_triggerer_takes_over(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.triggerer += 1
        self.passes[self.triggerer] = SchedulerPasses()
        self.old.append(self.walk)
        self.walk = self.start_walk()

    @precondition(lambda self: self.old and self.head_state == "deferred")
    @rule(data=st.data(), dies_after=calls)
    def a_loser_sends_what_it_has_staged(self, data: st.DataObject, dies_after: int | None) -> None:
        """To a worker; no expander commits for a triggerer that was taken over from."""
        event = data.draw(st.sampled_from(self.old))._event()
        self.events.append(event)
        self.let_worker(event=event, dies_after=dies_after)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def a_loser_announces_what_it_has_staged(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.old))._event()
        self.store.announce(Announcement("of another triggerer", USERS, time.time(), event))

    @rule(page=st.integers(0, 8))
    def the_source_breaks(self, page: int) -> None:
        self.source.breaks[page] = 1

    @precondition(lambda self: self.scheduler is None)
    @rule()
    def the_scheduler_reads_the_length(self) -> None:
        self.scheduler = SchedulerPass(self.airflow, USERS, INSERT)

    @precondition(lambda self: self.scheduler is not None)
    @rule()
    def the_scheduler_reads_the_indexes(self) -> None:
        assert self.scheduler is not None
        self.scheduler.read_indexes()

    @precondition(lambda self: self.scheduler is not None)
    @rule()
    def the_scheduler_commits(self) -> None:
        assert self.scheduler is not None
        self.scheduler.commit()
        self.scheduler = None

    @rule()
    def items_run(self) -> None:
        log = self.log
        for (task_id, index), state in self.airflow.tables.instances.items():
            if task_id == INSERT and index and state is None:
                self.carried.setdefault(index, set()).add(self.store.read_item(log, index))
                self.airflow.tables.instances[task_id, index] = "success"

    # -- what is promised -------------------------------------------------------------------------

    @invariant()
    def what_is_committed_is_the_beginning_of_the_source(self) -> None:
        if not hasattr(self, "source"):
            return
        log, everything = self.log, self.source.everything
        assert [self.store.read_item(log, n) for n in range(1, log.items + 1)] == everything[: log.items]
        assert not log.ended or log.items == len(everything)

    def teardown(self) -> None:
        try:
            if hasattr(self, "source"):
                self.finish()
        finally:
            for walk in (*self.old, *([self.walk] if hasattr(self, "walk") else [])):
                self.loop.run_until_complete(walk.close())
            self.loop.close()
            self.patches.undo()

    def finish(self) -> None:
        """Nothing breaks any more; passes of the scheduler still lie across commits."""
        self.source.breaks.clear()
        for _ in range(60):
            self.scheduler = self.scheduler or SchedulerPass(self.airflow, USERS, INSERT)
            if self.head_state == "deferred":
                self.loop.run_until_complete(self.walk.batches())
                if self.walk.failed or self.ends_at_worker:
                    self.let_worker(event=self.walk._event())
                else:
                    self.expander_commits(True)
            if self.scheduler is not None:
                self.scheduler.read_indexes()
            if self.head_state == "deferred":
                self.trigger_ends_the_head()
            if self.scheduler is not None:
                self.the_scheduler_commits()
            self.items_run()
            if self.head_state in ("success", "skipped"):
                break
        everything = self.source.everything
        assert self.head_state == ("success" if everything else "skipped")
        indexes = {index for task_id, index in self.airflow.tables.instances if task_id == INSERT}
        assert indexes == set(range(1 + len(everything)))
        assert self.carried == {number + 1: {number} for number in everything}
        self.what_is_committed_is_the_beginning_of_the_source()


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
