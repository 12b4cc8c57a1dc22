"""
A model of one stream without a running Airflow: triggerers with their expanders, workers, the
scheduler and the items, over a database in memory.

Source, walk, staging, registry of walks, handover, expander, commit log and stream head are the real
ones; the database and its locks are modelled. Every process may die between any two of its calls and at
any ``await``; a triggerer that was taken over from goes on; calls arrive twice; events come late; passes
of the scheduler begin before a commit and end after it. What is committed is at every moment the
beginning of what the source gives; in the end it is all of it, and each item was carried by one instance.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deferred_expand.definition import ExpandedGroup
from deferred_expand.plugin import expander, groups
from deferred_expand.streams.commit_index import batch_name
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import BatchEvent
from deferred_expand.workers.group_head import GroupHeadOperator
from tests import memory_database
from tests.memory_database import GROUP_TASKS
from tests.property.stream_processes import StreamProcesses
from tests.unit.helpers import PagedNumbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deferred_expand.airflow_internals.heads import Head
    from deferred_expand.definition import StreamDefinition
    from tests.property.triggerers import Triggerer

awaits = st.integers(0, 30)
calls = st.none() | st.integers(0, 8)
batch_sizes = st.integers(1, 6)
which = st.sampled_from([0, 0, 1, 2])
FOUND = 3  # statements in which an expander finds heads; with the next it locks one
FINISH = 600  # rounds
CONTROLS: list[Any] = [{"paused": True}, {"paused": True}, {"paused": False}, {"max_pending": 1}]
CONTROLS += [{"max_pending": 3}, {"rate_limit": 20}, {"max_pending": "many"}, None]


class Stream(StreamProcesses, RuleBasedStateMachine):
    """One stream, from its opening to its end."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        StreamProcesses.__init__(self)
        self.carried: dict[int, set[int]] = {}  # by instance
        self.seen: CommitLog | None = None

    @initialize(
        pages=st.sampled_from([8, 6, 5, 3, 2, 0]),
        size=st.integers(1, 4),
        delay=st.sampled_from([0.1, 0.4, 0.0]),
        takes_cursor=st.booleans(),
        ends_at_worker=st.booleans(),
        passes_last=st.integers(1, 9),
    )
    def begin(
        self,
        pages: int,
        size: int,
        delay: float,
        takes_cursor: bool,
        ends_at_worker: bool,
        passes_last: int,
    ) -> None:
        self.ends_at_worker = ends_at_worker
        self.passes_last = passes_last
        self.open(PagedNumbers(pages=pages, size=size, delay=delay, takes_cursor=takes_cursor))

    def one(self, number: int) -> Triggerer:
        """A triggerer that runs: the one that has the triggers, or one that was taken over from."""
        return self.triggerers[-1 - number % len(self.triggerers)]

    # -- triggerers -------------------------------------------------------------------------------

    @rule(
        number=which,
        rounds=st.integers(1, 6),
        count=awaits,
        asks=st.booleans(),
        looks=st.booleans(),
        dies_after=calls,
    )
    def a_triggerer_goes_on(
        self, number: int, rounds: int, count: int, asks: bool, looks: bool, dies_after: int | None
    ) -> None:
        """With its expander, which may die, or without."""
        triggerer = self.one(number)
        for left in reversed(range(rounds)):
            if asks:
                self.run_head()
                self.load_triggers(triggerer)
            triggerer.go_on(count, 0.03)
            if looks:
                self.let_expander(triggerer, triggerer.look, None if left else dies_after)

    @rule(seconds=st.sampled_from([3.0, 10.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(number=which, batch_size=batch_sizes, others=st.data())
    def an_expander_that_has_found_heads_is_late(
        self, number: int, batch_size: int, others: st.DataObject
    ) -> None:
        meanwhile: list[Callable[[], None]] = [
            partial(self.start_triggerer, batch_size),
            self.begin_new_try,
            self.defer_anew,
            self.let_an_event_arrive,
        ]
        self.interrupt(number, FOUND, others.draw(st.sampled_from(meanwhile)))

    @rule(number=which, statements=st.integers(1, 9), others=st.data())
    def an_expander_is_slow(self, number: int, statements: int, others: st.DataObject) -> None:
        """Its locks keep from the head and its trigger; everyone else goes on."""
        other = self.one(others.draw(which))
        meanwhile: list[Callable[[], None]] = [
            partial(other.go_on, 20, 0.3),
            self.scheduler_begins,
            self.scheduler_reads_indexes,
        ]
        self.interrupt(number, FOUND + statements, others.draw(st.sampled_from(meanwhile)))

    def interrupt(self, number: int, statements: int, meanwhile: Callable[[], None]) -> None:
        triggerer = self.one(number)
        self.database.interruptions[:] = [*[None] * statements, meanwhile]
        self.let_expander(triggerer, triggerer.look)

    def defer_anew(self) -> None:
        """A worker has found that there was nothing to commit."""
        if self.head_state == "deferred":
            self.let_worker(BatchEvent.empty("s"))

    def let_an_event_arrive(self) -> None:
        sender = next((triggerer for triggerer in self.triggerers if triggerer.events), None)
        if sender is not None:
            self.receive_event(sender)

    @precondition(lambda self: any(triggerer.events for triggerer in self.triggerers))
    @rule()
    def an_event_arrives(self) -> None:
        self.let_an_event_arrive()

    @rule(number=which, dies=st.booleans(), batch_size=batch_sizes, has_expander=st.booleans())
    def triggers_move(self, number: int, dies: bool, batch_size: int, has_expander: bool) -> None:
        """To a new triggerer, or back to one. What makes a batch depends on time and size."""
        if dies:
            self.lose_triggerer(self.one(number))
        else:
            self.start_triggerer(batch_size, has_expander=has_expander)

    # -- workers ----------------------------------------------------------------------------------

    @precondition(lambda self: self.head_state in ("scheduled", "up_for_retry", "up_for_reschedule"))
    @rule(dies_after=calls, repeats=st.booleans())
    def a_worker_runs_the_head_and_may_die(self, dies_after: int | None, repeats: bool) -> None:
        self.airflow.repeats = repeats
        self.run_head(dies_after)

    @precondition(lambda self: self.sent and self.head_state == "deferred")
    @rule(data=st.data(), dies_after=calls)
    def an_event_comes_twice_or_late(self, data: st.DataObject, dies_after: int | None) -> None:
        self.let_worker(data.draw(st.sampled_from(self.sent)), dies_after)

    @precondition(lambda self: self.head_state in ("deferred", "success", "skipped"))
    @rule()
    def someone_clears_the_head(self) -> None:
        self.begin_new_try()

    @rule(written=st.sampled_from(CONTROLS))
    def a_person_changes_it(self, written: Any) -> None:
        self.write_control(written)

    # -- the source, the scheduler and the items --------------------------------------------------

    @rule(page=st.integers(0, 8))
    def the_source_breaks(self, page: int) -> None:
        self.source.breaks[page] = 1

    @rule(commits=st.booleans())
    def the_scheduler_goes_on(self, commits: bool) -> None:
        if commits:
            self.scheduler_commits()
        elif self.scheduler is None:
            self.scheduler_begins()
        else:
            self.scheduler_reads_indexes()

    @rule()
    def items_run(self) -> None:
        """In a task group each task of an index once the one before it is done."""
        log, instances = self.log, self.airflow.tables.instances
        for (task_id, index), state in instances.items():
            place = self.tasks.index(task_id) if task_id in self.tasks else 0
            is_item = task_id in self.tasks and (task_id, index) != self.head_place
            if is_item and state is None and not (place and instances[self.tasks[place - 1], index] is None):
                number = index + 1 - self.store.ref.heads
                self.carried.setdefault(number, set()).add(self.store.read_item(log, number))
                instances[task_id, index] = "success"

    # -- what is promised -------------------------------------------------------------------------

    @invariant()
    def what_is_committed_is_the_beginning_of_the_source(self) -> None:
        if not hasattr(self, "source") or self.log == self.seen:
            return
        log, everything = self.log, self.source.everything
        assert [self.store.read_item(log, n) for n in range(1, log.items + 1)] == everything[: log.items]
        assert not log.ended or log.items == len(everything)
        self.seen = log

    def teardown(self) -> None:
        try:
            if hasattr(self, "source"):
                self.finish()
        finally:
            self.close()

    def finish(self, pace: float = 0.1) -> None:
        """Nothing breaks any more; passes of the scheduler still lie across commits."""
        self.source.breaks.clear()
        self.write_control(None)
        triggerer = self.triggerers[-1]
        for number in range(FINISH):
            self.load_triggers(triggerer)
            triggerer.go_on(12, pace)
            if not self.ends_at_worker:
                triggerer.look()
            if triggerer.events:
                self.receive_event(triggerer)
            if self.head_state in ("success", "skipped"):
                break
            if number % self.passes_last == 0:
                self.scheduler_commits()
                self.scheduler_begins()
            self.run_head()
            self.items_run()
        self.scheduler_commits()
        self.items_run()
        everything = self.source.everything
        assert self.head_state == ("success" if everything else "skipped")
        items = {
            place: state
            for place, state in self.airflow.tables.instances.items()
            if place[0] in self.tasks and place != self.head_place
        }
        heads = self.store.ref.heads
        assert items == {
            (task, index): "success" for task in self.tasks for index in range(heads, heads + len(everything))
        }
        assert self.carried == {number + 1: {number} for number in everything}
        for first, writer in self.log.left:
            assert not self.is_staged(batch_name(first, writer)), "nobody will read it"
        self.seen = None
        self.what_is_committed_is_the_beginning_of_the_source()


class GroupStream(Stream):
    """The same with a task group, which only expanders make grow, and no pass of the scheduler sees grow."""

    tasks = GROUP_TASKS
    head_place = ("users.stream", -1)
    make_head = GroupHeadOperator

    def __init__(self) -> None:
        super().__init__()
        self.grows = False

    def define(self, definition: StreamDefinition) -> StreamDefinition:
        group = ExpandedGroup("group", "users.stream", GROUP_TASKS, GROUP_TASKS[-1:])
        return replace(definition, mapped_task_id=GROUP_TASKS[-1], group=group, source_retries=0)

    def first_log(self) -> CommitLog:
        return CommitLog("s", grown=0)  # as the unmapped task leaves it, but for the first instances

    def _install_database(self) -> None:
        super()._install_database()
        place = {"map_index": -1}
        for name, more in (("announced_heads", {**place, "group_id": "group"}), ("states_of", place)):
            found = partial(getattr(memory_database, name), "users.stream", **more)
            self.patches.setattr(expander, name, found)
        self.patches.setattr(groups, "locked_run", self.locked_run)
        self.patches.setattr(groups, "GroupRecords", memory_database.MemoryGroupRecords)

    @contextmanager
    def locked_run(self, head: Head, wait: float | None) -> Iterator[Any]:
        if wait is not None:
            self.scheduler_commits()  # who stands in line comes after it, and before the next
        if self.scheduler is not None:
            yield None
            return
        self.grows = True
        try:
            with self.database.create_session() as session:
                yield session
        finally:
            self.grows = False

    def scheduler_begins(self) -> None:
        if not self.grows:
            super().scheduler_begins()

    def scheduler_reads_indexes(self) -> None:
        super().scheduler_reads_indexes()
        assert not (self.scheduler and self.scheduler.changes), "what it makes starts unchecked"

    def finish(self, pace: float = 0.1) -> None:
        self.ends_at_worker = False  # who cannot commit
        if not self.triggerers[-1].has_expander:
            self.start_triggerer(batch_size=3)
        super().finish(pace)


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGroupStream = GroupStream.TestCase
TestGroupStream.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("passes_last", range(1, 10))
def test_passes_of_any_length_lie_across_the_commits_of_a_stream_that_nothing_disturbs(
    passes_last: int,
) -> None:
    """It grows in one pass after the other, more slowly than the model's streams do in the end."""
    stream = Stream()
    try:
        stream.begin(
            pages=6, size=2, delay=0.4, takes_cursor=True, ends_at_worker=False, passes_last=passes_last
        )
        stream.finish(pace=0.02)
    finally:
        stream.close()
