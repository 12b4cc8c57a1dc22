"""
A model of a stream without Airflow: walks in several triggerers, both committers, and a store in memory.

Everything may stop at any ``await``, be done twice, or come late. What is committed is at every moment
the beginning of what the source gives, and in the end all of it.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deferred_expand.streams import commit_log
from deferred_expand.streams.commit_log import CommitLog, locate, plan_commit, span_of
from deferred_expand.streams.events import BatchEvent
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk

if TYPE_CHECKING:
    from deferred_expand.walking.walk import Walk

SPAN = 7  # items of an index page, so that a short stream has several
awaits = st.integers(0, 60)


class Stream(RuleBasedStateMachine):
    """One stream, from its opening to its end."""

    def __init__(self) -> None:
        super().__init__()
        self._span, commit_log.INDEX_SPAN = commit_log.INDEX_SPAN, SPAN
        self.loop = asyncio.new_event_loop()
        self.stager = MemoryStager()
        self.log: str = json.dumps(CommitLog("s").to_json())
        self.pages: dict[int, Any] = {}
        self.old: list[Walk] = []  # of triggerers that were taken over and do not know it
        self.events: list[BatchEvent] = []  # that were sent once

    @initialize(
        pages=st.integers(0, 8),
        size=st.integers(0, 4),
        takes_cursor=st.booleans(),
        batch_size=st.integers(1, 6),
    )
    def open(self, pages: int, size: int, takes_cursor: bool, batch_size: int) -> None:
        self.source = PagedNumbers(pages=pages, size=size, takes_cursor=takes_cursor)
        self.batch_size = batch_size
        self.walk = self.start_walk()

    # -- what processes do ------------------------------------------------------------------------

    def start_walk(self) -> Walk:
        """Where the assigned trigger starts: from the last checkpoint."""
        walk = make_walk(
            self.source,
            self.stager,
            self.read_log().checkpoint,
            batch_size=self.batch_size,
            batch_interval=1e-6,
            walk_ahead=3 * self.batch_size,
        )
        self.loop.call_soon(walk.start)
        self.run(1)
        return walk

    def run(self, count: int) -> None:
        """To some ``await`` of some task."""
        for _ in range(count):
            self.loop.run_until_complete(asyncio.sleep(0))

    def read_log(self) -> CommitLog:
        return CommitLog.from_json(json.loads(self.log))

    def commit(self, event: BatchEvent, writes: int = 10**6) -> None:
        """
        Carry out the plan for an event.

        :param writes: after which the committer dies; the expander's are one transaction.
        """
        plan = plan_commit(self.read_log(), BatchEvent.from_json(json.loads(json.dumps(event.to_json()))), 1)
        if plan is None:
            return
        for number, (span, page) in enumerate(plan.full_pages.items()):
            if number == writes:
                return
            self.pages[span] = page
        if writes > len(plan.full_pages):
            self.log = json.dumps(plan.log.to_json())

    def join(self) -> None:
        """The next trigger goes on with the walk, or opens a new one."""
        if not self.walk.goes_on_from(self.read_log().checkpoint):
            self.loop.run_until_complete(self.walk.close())
            self.walk = self.start_walk()

    # -- what happens -----------------------------------------------------------------------------

    @rule(count=awaits)
    def go_on(self, count: int) -> None:
        self.run(count)

    @rule()
    def expander_commits(self) -> None:
        event = self.walk._event()
        self.events.append(event)
        self.commit(event)
        self.join()

    @rule(writes=st.integers(0, 5), count=awaits)
    def worker_commits_and_may_die(self, writes: int, count: int) -> None:
        event = self.walk._event()
        self.events.append(event)
        self.run(count)  # the walk goes on meanwhile
        self.commit(event, writes)
        self.join()

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def an_event_comes_twice_or_late(self, data: st.DataObject) -> None:
        self.commit(data.draw(st.sampled_from(self.events)))
        self.join()

    @rule(batch_size=st.integers(1, 6))
    def the_triggerer_dies(self, batch_size: int) -> None:
        self.batch_size = batch_size  # what makes a batch depends on time and size
        self.loop.run_until_complete(self.walk.close())
        self.walk = self.start_walk()

    @rule(batch_size=st.integers(1, 6))
    def another_triggerer_takes_over(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.old.append(self.walk)
        self.walk = self.start_walk()

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def a_worker_is_late_with_what_another_walk_has_staged(self, data: st.DataObject) -> None:
        """No expander commits for a triggerer that was taken over from."""
        event = data.draw(st.sampled_from(self.old))._event()
        self.events.append(event)
        self.commit(event)
        self.join()

    @rule(page=st.integers(0, 8))
    def the_source_breaks(self, page: int) -> None:
        self.source.breaks[page] = 1

    # -- what is promised -------------------------------------------------------------------------

    @invariant()
    def what_is_committed_is_the_beginning_of_the_source(self) -> None:
        log = self.read_log()
        everything = self.source.everything if hasattr(self, "source") else []
        seen = []
        for number in range(1, log.items + 1):
            page = log.tail if span_of(number) == log.tail_span else self.pages[span_of(number)]
            name, place = locate(page, number)
            seen.append(int(self.stager.batches[name][place]))
        assert seen == everything[: log.items]
        if log.ended:
            assert seen == everything

    def teardown(self) -> None:
        try:
            if hasattr(self, "source"):
                self.finish()
        finally:
            for walk in (*self.old, *([self.walk] if hasattr(self, "walk") else [])):
                self.loop.run_until_complete(walk.close())
            self.loop.close()
            commit_log.INDEX_SPAN = self._span

    def finish(self) -> None:
        """Nothing breaks any more."""
        self.source.breaks.clear()
        for _ in range(50):
            event = self.loop.run_until_complete(self.walk.batches())
            self.commit(event)
            log = self.read_log()
            if log.ended:
                break
            if log.failure is not None:  # a new try of the head
                self.log = json.dumps({**json.loads(self.log), "failure": None, "failed_try": None})
                self.loop.run_until_complete(self.walk.close())
                self.walk = self.start_walk()
            else:
                self.join()
        assert self.read_log().ended
        self.what_is_committed_is_the_beginning_of_the_source()


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
