"""The processes that have a part in one stream, over a database in memory."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException, TaskDeferred

from deferred_expand import DeferredExpandOperator
from deferred_expand.committing.codec import encode_batches
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import ItemsRemoved, SourceError
from deferred_expand.plugin.commit import commit_announced, restore_removed
from deferred_expand.plugin.passes import SchedulerPasses
from deferred_expand.streams import commit_log
from deferred_expand.streams.commit_log import CommitLog, batch_name
from deferred_expand.streams.events import Announcement, BatchEvent
from deferred_expand.streams.ref import StreamRef
from deferred_expand.workers.head import StreamHeadOperator
from tests.e2e import sources
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow, MemoryRecords, ProcessDied, SchedulerPass
from tests.unit.helpers import PagedNumbers, make_walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deferred_expand.walking.staging import Encoded
    from deferred_expand.walking.walk import Walk

ENTRIES = 3  # of an index page, so that a short stream has several levels of them
USERS, INSERT = "users", "insert"
REF = StreamRef(DAG_ID, RUN_ID, USERS, INSERT)
HEAD = (INSERT, 0)


class Stager:
    """Writes batches as XComs; the walk goes on meanwhile."""

    async def encode(self, items: Sequence[Any], first_number: int) -> Encoded:
        await asyncio.sleep(0)
        return encode_batches(items, first_number, 1_000_000)

    async def write(self, number: int, writer: str, batch: list[str]) -> None:
        await asyncio.sleep(0)
        StreamStore(REF).write_batch(batch_name(number, writer), batch)
        await asyncio.sleep(0)

    def close(self) -> None:
        pass


class StreamProcesses:
    """
    A triggerer's walk, its expander, the workers that run the head, and the scheduler's passes.

    :ivar source: what is walked.
    :ivar old: walks of triggerers that were taken over and do not know it.
    :ivar events: that were sent once.
    """

    def __init__(self) -> None:
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(commit_log, "INDEX_ENTRIES", ENTRIES)
        self.loop = asyncio.new_event_loop()
        self.airflow = MemoryAirflow()
        self.airflow.install(self.patches)
        with DAG(DAG_ID, schedule=None):
            users = DeferredExpandOperator(
                task_id=USERS, source=sources.numbers, source_kwargs={"count": 1}, materialize="auto"
            )
            definition = replace(users.definition, mapped_task_id=INSERT)
            self.head = StreamHeadOperator(task_id="head", definition=definition, source_kwargs={"count": 1})
        self.triggerer = 0  # that the head's trigger is assigned to
        self.passes = {0: SchedulerPasses()}
        self.try_number = 1
        self.old: list[Walk] = []  # of triggerers that were taken over and do not know it
        self.events: list[BatchEvent] = []  # that were sent once
        self.scheduler: SchedulerPass | None = None

    def open(self, source: PagedNumbers, batch_size: int) -> None:
        """What the unmapped task and the first trigger do."""
        self.source = source
        self.batch_size = batch_size
        self.store = StreamStore(REF)
        self.store.write_log(CommitLog("s"), mapped_length=1)
        self.airflow.tables.instances = {(USERS, -1): "success", HEAD: "deferred"}
        self.walk = self.start_walk()

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

    def let_scheduler_commit(self) -> None:
        """End its pass, if there is one."""
        if self.scheduler is not None:
            self.scheduler.commit()
            self.scheduler = None

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
            self.let_scheduler_commit()  # passes over one run follow one another
            SchedulerPass(self.airflow, USERS, INSERT).commit()
            self.let_worker(event=None)
        elif self.head_state == "deferred":
            self.join()
