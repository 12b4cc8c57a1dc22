"""The processes that have a part in one stream, over a database in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from airflow.sdk import DAG
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException, TaskDeferred

from deferred_expand import DeferredExpandOperator
from deferred_expand.airflow_internals.sdk import TriggerEvent
from deferred_expand.committing.board import install_board
from deferred_expand.committing.store import ANNOUNCEMENT_KEY, CONTROL_KEY, StreamStore
from deferred_expand.exceptions import ItemsRemoved, SourceError
from deferred_expand.plugin import controls, expander
from deferred_expand.streams import commit_index
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.workers.head import StreamHeadOperator
from tests import memory_database
from tests.e2e import sources
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow, ProcessDied, SchedulerPass
from tests.property import triggerers
from tests.property.triggerers import Clock, Triggerer

if TYPE_CHECKING:
    from collections.abc import Callable

    from deferred_expand.definition import StreamDefinition
    from tests.unit.helpers import PagedNumbers

ENTRIES = 3  # of an index page, so that a short stream has several levels of them
WALK_AHEAD = 12  # items, so that a short walk waits
USERS, INSERT = "users", "insert"


class StreamProcesses:
    """
    Triggerers, each with its expander, the workers that run the head, and the scheduler's passes.

    :cvar tasks: whose instances the items have.
    :cvar head_place: task id and map index of the head.
    :ivar source: what is walked.
    :ivar triggerers: those that run; the last one is given the triggers, the others were taken over
        from and do not know it.
    :ivar sent: batch events of all of them.
    """

    tasks: tuple[str, ...] = (INSERT,)
    head_place = (INSERT, 0)

    def __init__(self) -> None:
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(commit_index, "INDEX_ENTRIES", ENTRIES)
        self.patches.setenv("AIRFLOW__DEFERRED_EXPAND__WALK_AHEAD", str(WALK_AHEAD))
        self.clock = Clock()
        triggerers.install(self.patches, self.clock)
        self.airflow = MemoryAirflow()
        self.airflow.install(self.patches)
        self.database = memory_database.MemoryDatabase(self.airflow)
        self._install_database()
        with DAG(DAG_ID, schedule=None):
            users = DeferredExpandOperator(
                task_id=USERS, source=sources.numbers, source_kwargs={"count": 1}, materialize="auto"
            )
            self.definition = self.define(users.definition)
            self.head = self.make_head(task_id="head", definition=self.definition, source_kwargs={"count": 1})
        self.triggerers: list[Triggerer] = []
        self.dead: list[Triggerer] = []
        self.trigger_ids = count(1)
        self.sent: list[BatchEvent] = []
        self.resumes_with: BatchEvent | None = None
        self.scheduler: SchedulerPass | None = None

    make_head: Callable[..., StreamHeadOperator] = StreamHeadOperator

    def define(self, definition: StreamDefinition) -> StreamDefinition:
        return replace(definition, mapped_task_id=INSERT, source_retries=0)

    def _install_database(self) -> None:
        self.patches.setattr(expander, "dag_cache", lambda: None)
        self.patches.setattr(expander, "create_session", self.database.create_session)
        self.patches.setattr(expander, "StreamRecords", memory_database.MemoryRecords)
        self.patches.setattr(expander, "missing_places", lambda *_: {})
        self.patches.setattr(controls, "written_by_people", memory_database.written_by_people)
        for name in ("announced_heads", "heads_with_removed_items", "states_of"):
            self.patches.setattr(expander, name, partial(getattr(memory_database, name), INSERT))

    def open(self, source: PagedNumbers) -> None:
        """What the unmapped task does, and the head's first start."""
        self.source = source
        self.store = StreamStore(self.definition.ref(RUN_ID))
        self.store.write_log(self.first_log(), mapped_length=self.store.ref.heads or None)
        self.airflow.tables.instances = {(USERS, -1): "success", self.head_place: "queued"}
        self.start_triggerer(batch_size=3)
        self.let_worker()

    def first_log(self) -> CommitLog:
        return CommitLog("s")

    def write_control(self, written: Any) -> None:
        """:param written: ``None``: it is deleted."""
        where: dict[str, Any] = {"dag_id": DAG_ID, "run_id": RUN_ID, "task_id": USERS, "map_index": -1}
        if written is None:
            BaseXCom.delete(key=CONTROL_KEY, **where)
        else:
            BaseXCom.set(key=CONTROL_KEY, value=written, **where)

    # -- what the database says -------------------------------------------------------------------

    @property
    def log(self) -> CommitLog:
        log = self.store.read_log()
        assert log is not None
        return log

    def is_staged(self, name: str) -> bool:
        return (USERS, -1, f"deferred_expand.batch.{name}") in self.airflow.tables.xcoms

    @property
    def head_state(self) -> str | None:
        return self.airflow.tables.instances[self.head_place]

    @head_state.setter
    def head_state(self, state: str | None) -> None:
        self.airflow.tables.instances[self.head_place] = state

    # -- triggerers -------------------------------------------------------------------------------

    def start_triggerer(self, batch_size: int, *, has_expander: bool = True) -> None:
        """It takes over whatever there is."""

        def expansion() -> Expansion:
            definition = replace(self.definition, batch_size=batch_size, batch_interval=0.5)
            return Expansion(definition, RUN_ID, "s", for_head=True)

        self.triggerers.append(Triggerer(self.clock, self.source, expansion, has_expander=has_expander))
        self.assign_triggers()

    def assign_triggers(self) -> None:
        assigned = self.triggerers[-1].id
        self.airflow.tables.triggers = dict.fromkeys(self.airflow.tables.triggers, assigned)

    def load_triggers(self, triggerer: Triggerer) -> None:
        """It cleans up, and asks which are its own; it did not while it stood still."""
        tables = self.airflow.tables
        waits_for = tables.head.trigger_id if self.head_state == "deferred" else None
        tables.triggers = {id: owner for id, owner in tables.triggers.items() if id == waits_for}
        assigned = [id for id, assigned_to in tables.triggers.items() if assigned_to == triggerer.id]
        triggerer.load(dict.fromkeys(assigned, tables.head.try_number))

    def receive_event(self, triggerer: Triggerer) -> None:
        """The oldest one arrives (airflow/models/trigger.py, ``submit_event``)."""
        trigger_id, event = triggerer.events.pop(0)
        if isinstance(event, BatchEvent):
            self.sent.append(event)
        if self.head_state != "deferred" or self.airflow.tables.head.trigger_id != trigger_id:
            return
        if isinstance(event, Exception):
            raise event
        if isinstance(event, BatchEvent):
            self.resumes_with, self.head_state = event, "scheduled"
        else:
            assert isinstance(event, TriggerEvent)
            self.head_state = event.task_instance_state.value  # type: ignore[attr-defined]

    def let_expander(
        self, triggerer: Triggerer, act: Callable[[], None], dies_after: int | None = None
    ) -> None:
        """It commits nothing that its own walks have not staged, and its process may end meanwhile."""
        before = self.log
        self.airflow.dies_after = dies_after
        try:
            act()
        except ProcessDied:
            self.lose_triggerer(triggerer)
        finally:
            self.airflow.dies_after = None
            self.database.interruptions.clear()
        after = self.log
        assert after == before or after.batches == before.batches or after.writer in triggerer.writers

    def lose_triggerer(self, triggerer: Triggerer) -> None:
        self.airflow.dies_after = None
        self.triggerers.remove(triggerer)
        self.dead.append(triggerer)
        if not self.triggerers:
            self.start_triggerer(batch_size=2)
        self.assign_triggers()

    # -- workers and the scheduler ----------------------------------------------------------------

    def let_worker(self, event: BatchEvent | None = None, dies_after: int | None = None) -> None:
        """Resume the head with an event, or start it, on a worker that may die before it is done."""
        tables = self.airflow.tables
        self.head_state = "running"
        context = self.airflow.context(map_index=self.head_place[1], try_number=tables.head.try_number)
        if event is None:  # the task runner clears what the instance has written
            tables.xcoms.pop((*self.head_place, ANNOUNCEMENT_KEY), None)
            tables.written.pop((*self.head_place, ANNOUNCEMENT_KEY), None)
        self.airflow.dies_after = dies_after
        try:
            if event is None:
                self.head.execute(context)
            else:
                self.head.commit(context, json.loads(json.dumps(event.to_json())))
        except TaskDeferred:
            self.defer_head()
        except AirflowRescheduleException:
            self.head_state = "up_for_reschedule"
        except AirflowSkipException:
            self.head_state = "skipped"
        except ItemsRemoved:
            self.clear_the_mapped_task()
        except (SourceError, ProcessDied):  # as the source, or this model, made it fail
            self.begin_new_try()
        else:
            self.head_state = "success"
        finally:
            self.airflow.dies_after, self.airflow.repeats = None, False

    def defer_head(self) -> None:
        """On a new trigger; the old one runs until that is cleaned up."""
        tables = self.airflow.tables
        tables.head.trigger_id = next(self.trigger_ids)
        tables.triggers[tables.head.trigger_id] = self.triggerers[-1].id
        self.head_state = "deferred"

    def begin_new_try(self) -> None:
        """It failed, or was cleared (airflow/models/taskinstance.py, ``prepare_db_for_next_try``)."""
        head = self.airflow.tables.head
        head.id, head.try_number, head.trigger_id = uuid4(), head.try_number + 1, None
        self.resumes_with, self.head_state = None, "up_for_retry"

    def clear_the_mapped_task(self) -> None:
        """The remedy that the message names."""
        for place in self.airflow.tables.instances:
            if place[0] == INSERT:
                self.airflow.tables.instances[place] = None
        self.begin_new_try()

    def run_head(self, dies_after: int | None = None) -> None:
        """Once the scheduler has looked at the run, a worker takes it, if it is to run."""
        if self.head_state == "scheduled":
            event, self.resumes_with = self.resumes_with, None
            self.let_worker(event, dies_after)
        elif self.head_state in ("up_for_retry", "up_for_reschedule"):
            self.scheduler_commits()  # passes over one run follow one another
            SchedulerPass(self.airflow, USERS, *self.tasks).commit()
            self.let_worker(None, dies_after)

    def scheduler_begins(self) -> None:
        """It reads the length."""
        self.scheduler = self.scheduler or SchedulerPass(self.airflow, USERS, *self.tasks)

    def scheduler_reads_indexes(self) -> None:
        if self.scheduler is not None:
            self.scheduler.read_indexes()

    def scheduler_commits(self) -> None:
        if self.scheduler is not None:
            self.scheduler.commit()
            self.scheduler = None

    def close(self) -> None:
        for triggerer in (*self.triggerers, *self.dead):
            triggerer.close()
        install_board(None)
        self.patches.undo()
