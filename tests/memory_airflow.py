"""
What Airflow knows of one run, in memory, behind the SDK's own calls.

What is real stays real: the operators, the SDK's XComs. Only the API server and the database are
replaced, because a process must be able to end between any two of its calls.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    DeleteXCom,
    GetTaskStates,
    GetTICount,
    GetXCom,
    OKResponse,
    SetXCom,
    TaskStatesResult,
    TICount,
    XComResult,
)

if TYPE_CHECKING:
    import pytest

DAG_ID, RUN_ID = "dag", "run"
EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass
class HeadRow:
    """What is kept of the stream head besides its state."""

    id: UUID = field(default_factory=uuid4)
    try_number: int = 1
    trigger_id: int | None = None
    label: str | None = None


@dataclass
class Tables:
    """
    :param instances: states, by task id and map index.
    :param lengths: mapped lengths, by the task that has pushed them.
    :param triggers: ids of the triggerers that they are assigned to.
    :param written: when each XCom was, in writes since the beginning.
    """

    xcoms: dict[tuple[str, int, str], str] = field(default_factory=dict)
    instances: dict[tuple[str, int], str | None] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    head: HeadRow = field(default_factory=HeadRow)
    triggers: dict[int, int | None] = field(default_factory=dict)
    written: dict[tuple[str, int, str], int] = field(default_factory=dict)
    writes: int = 0
    run_state: str = "running"
    is_paused: bool = False
    is_stale: bool = False
    last_scheduling_decision: datetime = EPOCH

    def write_xcom(self, place: tuple[str, int, str], text: str) -> None:
        self.xcoms[place] = text
        self.writes += 1
        self.written[place] = self.writes


class ProcessDied(BaseException):
    """In the middle of what it did; nothing catches it."""


class MemoryAirflow:
    """
    :ivar dies_after: of the calls of a process, the number after which it dies; ``None``: it lives.
    :ivar repeats: whether each writing call arrives twice, as when its first answer was lost.
    :ivar requests: how often it was asked what.
    :ivar states_given: how many states there were in its answers.
    """

    def __init__(self) -> None:
        self.tables = Tables()
        self.dies_after: int | None = None
        self.repeats = False
        self.requests: Counter[type] = Counter()
        self.states_given = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", self, raising=False)

    def context(self, map_index: int = -1, try_number: int = 1) -> Any:
        ti = SimpleNamespace(
            dag_id=DAG_ID, run_id=RUN_ID, map_index=map_index, try_number=try_number, rendered_map_index=None
        )
        return {"ti": ti, "run_id": RUN_ID}

    def step(self) -> None:
        """A process begins a call."""
        if self.dies_after is not None:
            if not self.dies_after:
                raise ProcessDied
            self.dies_after -= 1

    def send(self, message: Any) -> Any:
        """What a supervisor answers."""
        self.step()
        self.requests[type(message)] += 1
        answer = self._answer(message)
        if self.repeats:
            answer = self._answer(message)
        return answer

    def _answer(self, message: Any) -> Any:
        tables = self.tables
        if isinstance(message, (GetXCom, SetXCom, DeleteXCom)):
            index = -1 if message.map_index is None else message.map_index
            place = (message.task_id, index, message.key)
            if isinstance(message, GetXCom):
                return XComResult(key=message.key, value=json.loads(tables.xcoms.get(place, "null")))
            if isinstance(message, DeleteXCom):
                tables.xcoms.pop(place, None)
                tables.written.pop(place, None)
            else:
                tables.write_xcom(place, json.dumps(message.value))
                if message.mapped_length is not None:
                    tables.lengths[message.task_id] = message.mapped_length
            return OKResponse(ok=True)
        if isinstance(message, GetTICount):
            states = set(message.states or ())
            return TICount(
                count=sum((state or "null") in states for state in self._states_of(message).values())
            )
        if isinstance(message, GetTaskStates):
            found = self._states_of(message)
            self.states_given += len(found)
            named = {f"{task}_{index}" if index >= 0 else task: found[task, index] for task, index in found}
            return TaskStatesResult(task_states={RUN_ID: named} if named else {})
        return None

    def _states_of(self, message: GetTICount | GetTaskStates) -> dict[tuple[str, int], str | None]:
        instances, tasks, index = self.tables.instances, message.task_ids or (), message.map_index
        if index is not None:
            return {(task, index): instances[task, index] for task in tasks if (task, index) in instances}
        return {place: state for place, state in instances.items() if place[0] in tasks}


class SchedulerPass:
    """
    One pass over the run, in the steps in which it meets others
    (airflow/models/dagrun.py, ``_revise_map_indexes_if_mapped``).
    """

    def __init__(self, airflow: MemoryAirflow, unmapped_task_id: str, *mapped_task_ids: str) -> None:
        self._airflow = airflow
        self._mapped_task_ids = mapped_task_ids
        self._length = airflow.tables.lengths.get(unmapped_task_id, 0)
        self._changes: dict[tuple[str, int], str | None] | None = None

    def read_indexes(self) -> None:
        self._changes = {}
        for task_id in self._mapped_task_ids:
            existing = {i for task, i in self._airflow.tables.instances if task == task_id}
            surplus: dict[int, str | None] = dict.fromkeys(existing - set(range(self._length)), "removed")
            missing: dict[int, str | None] = dict.fromkeys(set(range(self._length)) - existing)
            self._changes |= {(task_id, i): state for i, state in {**surplus, **missing}.items()}

    @property
    def changes(self) -> dict[tuple[str, int], str | None]:
        """What it has found to change, if it has read the indexes."""
        return self._changes or {}

    def commit(self) -> None:
        if self._changes is None:
            self.read_indexes()
        self._airflow.tables.instances.update(self._changes or {})
        self._airflow.tables.last_scheduling_decision += timedelta(seconds=1)
