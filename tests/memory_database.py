"""
The expander's view of the run in :mod:`tests.memory_airflow`.

It stands in for ``airflow_internals/metadata.py`` and ``airflow_internals/heads.py``, whose SQL is too
slow for thousands of transactions; ``tests/unit/test_stream_records.py`` holds it to what they do.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.heads import Head
from tests.memory_airflow import DAG_ID, EPOCH, RUN_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from tests.memory_airflow import MemoryAirflow


GROUP_TASKS = ("group.one", "group.two", "group.three")


class MemorySession:
    """
    A transaction: it sees what others have committed by now, and what it has written itself.

    Others see nothing of it before it commits. Once the head is locked, what would change the head
    or its trigger waits; the rest goes on.

    :param interruptions: what others do, before the first statement, the second, ...
    """

    def __init__(self, airflow: MemoryAirflow, interruptions: list[Callable[[], None] | None]) -> None:
        self.airflow = airflow
        self._interruptions = interruptions
        self.xcoms: dict[tuple[str, int, str], str] = {}
        self._instances: dict[tuple[str, int], str | None] = {}
        self._lengths: dict[str, int] = {}

    def statement(self) -> None:
        self.airflow.step()
        meanwhile = self._interruptions.pop(0) if self._interruptions else None
        if meanwhile is not None:
            meanwhile()

    @property
    def instances(self) -> dict[tuple[str, int], str | None]:
        return {**self.airflow.tables.instances, **self._instances}

    def set_state(self, place: tuple[str, int], state: str | None) -> None:
        self._instances[place] = state

    def grow(self, task_id: str, length: int) -> None:
        known = {**self.airflow.tables.lengths, **self._lengths}
        if task_id in known:
            self._lengths[task_id] = max(length, known[task_id])

    def set_length(self, task_id: str, length: int) -> None:
        self._lengths[task_id] = max(length, self.airflow.tables.lengths.get(task_id, 0))

    def commit(self) -> None:
        self.airflow.step()
        tables = self.airflow.tables
        for place, text in self.xcoms.items():
            tables.write_xcom(place, text)
        tables.instances.update(self._instances)
        tables.lengths.update(self._lengths)


class MemoryDatabase:
    """Gives sessions, as ``airflow.utils.session`` does."""

    def __init__(self, airflow: MemoryAirflow) -> None:
        self._airflow = airflow
        self.interruptions: list[Callable[[], None] | None] = []

    @contextmanager
    def create_session(self, scoped: bool = True) -> Iterator[MemorySession]:
        session = MemorySession(self._airflow, self.interruptions)
        yield session
        session.commit()


class MemoryRecords:
    """Implements :class:`~deferred_expand.airflow_internals.metadata.StreamRecords`."""

    def __init__(self, session: MemorySession, head: Head, dags: Any, progress: Any) -> None:
        self._session = session
        self._head = head

    def lock(self, triggerer_id: int) -> Any:
        self._session.statement()
        head, tables = self._head, self._session.airflow.tables
        is_it = tables.head.id == head.id and tables.head.trigger_id == head.trigger_id
        if not is_it or tables.instances.get((head.task_id, head.map_index)) != "deferred":
            return None
        if tables.triggers.get(head.trigger_id) != triggerer_id:
            return None
        if tables.run_state != "running" or tables.is_paused or tables.is_stale:
            return None
        return SimpleNamespace(last_scheduling_decision=tables.last_scheduling_decision, context_carrier=None)

    def read(self, key: str, task_id: str, map_index: int) -> Any:
        self._session.statement()
        place = (task_id, map_index, key)
        return json.loads(self._session.xcoms.get(place) or self._committed.get(place, "null"))

    @property
    def _committed(self) -> dict[tuple[str, int, str], str]:
        return self._session.airflow.tables.xcoms

    def write(self, run: Any, key: str, task_id: str, value: Any) -> None:
        self._session.statement()
        self._session.xcoms[task_id, -1, key] = json.dumps(value)

    def grow(self, task_id: str, length: int) -> None:
        self._session.statement()
        self._session.grow(task_id, length)

    def label_head(self, label: str) -> None:
        self._session.statement()
        self._session.airflow.tables.head.label = label

    def fail_skipped_head(self, label: str) -> bool:
        self._session.statement()
        place = (self._head.task_id, self._head.map_index)
        is_it = self._session.airflow.tables.head.id == self._head.id
        if not is_it or self._session.instances[place] != "skipped":
            return False
        self._session.set_state(place, "failed")
        return True

    def missing_place(self) -> str | None:
        return None

    def create_instances(self, run: Any, first: int, last: int) -> int:
        self._session.statement()
        places = [(self._head.task_id, index) for index in range(first, last + 1)]
        missing = [place for place in places if place not in self._session.instances]
        for place in missing:
            self._session.set_state(place, None)
        return len(missing)

    def restore_removed(self, run: Any, last: int) -> int:
        self._session.statement()
        removed = [
            (task_id, index)
            for (task_id, index), state in self._session.instances.items()
            if task_id == self._head.task_id and 1 <= index <= last and state == "removed"
        ]
        for place in removed:
            self._session.set_state(place, None)
        return len(removed)


class MemoryGroupRecords(MemoryRecords):
    """Implements :class:`~deferred_expand.airflow_internals.groups.GroupRecords`."""

    made = 0

    def tasks_in(self, run: Any, group_id: str) -> int:
        return len(GROUP_TASKS)

    def grow_group(self, run: Any, task_id: str, group_id: str, first: int, last: int) -> None:
        self._session.statement()
        self._session.set_length(task_id, last)
        for task, index in product(GROUP_TASKS, range(first, last)):
            if (task, index) not in self._session.instances:
                self._session.set_state((task, index), None)
                self.made += 1


def announced_heads(
    task_id: str,
    session: MemorySession,
    triggerer_id: int,
    key: str,
    map_index: int = 0,
    group_id: str | None = None,
) -> list[Head]:
    """:param task_id: of the head."""
    session.statement()
    tables = session.airflow.tables
    row, written = tables.head, tables.written.get((task_id, map_index, key))
    if written is None or not _is_deferred_in(triggerer_id, task_id, session, map_index):
        return []
    assert row.trigger_id is not None
    at = EPOCH + timedelta(seconds=written)
    place = (DAG_ID, RUN_ID, task_id, map_index)
    return [Head(row.id, *place, row.try_number, row.trigger_id, None, at, group_id)]


def written_by_people(session: MemorySession, key: str) -> dict[tuple[str, str, str], datetime]:
    session.statement()
    tables = session.airflow.tables
    return {
        (DAG_ID, RUN_ID, task_id): EPOCH + timedelta(seconds=at)
        for (task_id, map_index, named), at in tables.written.items()
        if named == key and map_index == -1 and (task_id, map_index, named) in tables.xcoms
    }


def heads_with_removed_items(task_id: str, session: MemorySession, triggerer_id: int) -> set[Any]:
    """:param task_id: of the mapped task."""
    session.statement()
    if not _is_deferred_in(triggerer_id, task_id, session):
        return set()
    items = [state for (task, index), state in session.instances.items() if task == task_id and index > 0]
    return {session.airflow.tables.head.id} if "removed" in items else set()


def states_of(
    task_id: str, session: MemorySession, ids: Collection[Any], map_index: int = 0
) -> dict[Any, str | None]:
    """:param task_id: of the head."""
    session.statement()
    head = session.airflow.tables.head
    return {head.id: session.instances[task_id, map_index]} if head.id in ids else {}


def _is_deferred_in(triggerer_id: int, task_id: str, session: MemorySession, map_index: int = 0) -> bool:
    tables = session.airflow.tables
    assigned = tables.triggers.get(tables.head.trigger_id or 0)
    return tables.instances.get((task_id, map_index)) == "deferred" and assigned == triggerer_id
