"""
What Airflow knows of one run, in memory: behind the SDK's own calls, and behind the expander's.

What is real stays real: the operators, the SDK's XComs, the expander's commit. Only the API server
and the database are replaced, because a process must be able to end between any two of its calls.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

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


@dataclass
class Tables:
    """
    :param instances: states, by task id and map index.
    :param lengths: mapped lengths, by the task that has pushed them.
    """

    xcoms: dict[tuple[str, int, str], str] = field(default_factory=dict)
    instances: dict[tuple[str, int], str | None] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    last_scheduling_decision: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)


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

    # -- a worker's or a triggerer's side ---------------------------------------------------------

    def send(self, message: Any) -> Any:
        """What a supervisor answers."""
        if self.dies_after is not None:
            if not self.dies_after:
                raise ProcessDied
            self.dies_after -= 1
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
            else:
                tables.xcoms[place] = json.dumps(message.value)
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


class MemoryRecords:
    """The expander's view of one stream: a transaction on a copy, until :meth:`commit`."""

    def __init__(self, airflow: MemoryAirflow, mapped_task_id: str) -> None:
        self._airflow = airflow
        self._tables = copy.deepcopy(airflow.tables)
        self._mapped_task_id = mapped_task_id

    def commit(self) -> None:
        self._airflow.tables = self._tables

    def read(self, key: str, task_id: str, map_index: int) -> Any:
        return json.loads(self._tables.xcoms.get((task_id, map_index, key), "null"))

    def write(self, run: Any, key: str, task_id: str, value: Any) -> None:
        self._tables.xcoms[task_id, -1, key] = json.dumps(value)

    def grow(self, task_id: str, length: int) -> None:
        self._tables.lengths[task_id] = max(length, self._tables.lengths[task_id])

    def label_head(self, label: str) -> None:
        pass

    def exhausted_pool(self) -> None:
        pass

    def create_instances(self, run: Any, first: int, last: int) -> None:
        for index in range(first, last + 1):
            self._tables.instances.setdefault((self._mapped_task_id, index), None)

    def restore_removed(self, last: int) -> int:
        removed = [
            place
            for place, state in self._tables.instances.items()
            if place[0] == self._mapped_task_id and 1 <= place[1] <= last and state == "removed"
        ]
        for place in removed:
            self._tables.instances[place] = None
        return len(removed)


class SchedulerPass:
    """
    One pass over the run, in the steps in which it meets others
    (airflow/models/dagrun.py, ``_revise_map_indexes_if_mapped``).
    """

    def __init__(self, airflow: MemoryAirflow, unmapped_task_id: str, mapped_task_id: str) -> None:
        self._airflow = airflow
        self._mapped_task_id = mapped_task_id
        self._length = airflow.tables.lengths[unmapped_task_id]
        self._changes: dict[tuple[str, int], str | None] | None = None

    def read_indexes(self) -> None:
        existing = {i for task, i in self._airflow.tables.instances if task == self._mapped_task_id}
        surplus: dict[int, str | None] = dict.fromkeys(existing - set(range(self._length)), "removed")
        missing: dict[int, str | None] = dict.fromkeys(set(range(self._length)) - existing)
        self._changes = {(self._mapped_task_id, i): state for i, state in {**surplus, **missing}.items()}

    def commit(self) -> None:
        if self._changes is None:
            self.read_indexes()
        self._airflow.tables.instances.update(self._changes or {})
        self._airflow.tables.last_scheduling_decision += timedelta(seconds=1)
