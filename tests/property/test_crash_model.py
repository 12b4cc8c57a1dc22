"""
A model of one stream without a running Airflow: walks in several triggerers, both committers, the
scheduler and the items, over a database in memory.

Source, walk, staging, commit log, the expander's commit and the stream head are the real ones. Every
process may die between any two of its calls and at any ``await``; calls arrive twice; events come late;
passes of the scheduler begin before a commit and end after it. What is committed is at every moment the
beginning of what the source gives; in the end it is all of it, and each item was carried by one instance.
"""

from __future__ import annotations

import time

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deferred_expand.airflow_internals.comms import count_task_instances
from deferred_expand.plugin.passes import SchedulerPasses
from deferred_expand.streams.events import Announcement
from tests.memory_airflow import DAG_ID, RUN_ID, SchedulerPass
from tests.property.stream_processes import INSERT, USERS, StreamProcesses
from tests.unit.helpers import PagedNumbers

awaits = st.integers(0, 60)
calls = st.none() | st.integers(0, 8)


class Stream(StreamProcesses, RuleBasedStateMachine):
    """One stream, from its opening to its end."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        StreamProcesses.__init__(self)
        self.carried: dict[int, set[int]] = {}  # by instance

    @initialize(
        pages=st.integers(0, 8),
        size=st.integers(0, 4),
        takes_cursor=st.booleans(),
        batch_size=st.integers(1, 6),
        ends_at_worker=st.booleans(),
    )
    def begin(self, pages: int, size: int, takes_cursor: bool, batch_size: int, ends_at_worker: bool) -> None:
        self.ends_at_worker = ends_at_worker
        self.open(PagedNumbers(pages=pages, size=size, takes_cursor=takes_cursor), batch_size)

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
        self.let_scheduler_commit()

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
            self.let_scheduler_commit()
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
