"""Task groups over streams grow: their instances are made by slices, between passes of the scheduler."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from deferred_expand.airflow_internals.groups import GroupRecords, locked_run
from deferred_expand.airflow_internals.locks import is_busy
from deferred_expand.committing.board import name_on_board
from deferred_expand.plugin.commit import grow_announced
from deferred_expand.plugin.telemetry import report_growth

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from deferred_expand.airflow_internals.heads import Head
    from deferred_expand.airflow_internals.metadata import DBDagBag
    from deferred_expand.committing.board import CommitBoard

log = logging.getLogger(__name__)

IN_LINE = 4  # runs that are waited for at a time, each in a thread and with a connection
LEAST_WAIT, LONGEST_WAIT = 2.0, 60.0  # seconds in line
SLICE_TIME = 0.5  # seconds that a transaction shall hold a run's lock, which one of a second may not pass
FIRST_SLICE = 60  # task instances
GROUP_REST = 5.0  # seconds for which a group that could not grow is left alone
BUSY_LOOK = 0.5  # seconds between two tries of what is busy and has no place in the line

Growing = Literal["grown", "behind", "locked", "later"]


class Slice:
    """How many task instances one transaction makes, by how long the last took."""

    def __init__(self) -> None:
        self.size = FIRST_SLICE

    def note(self, made: int, seconds: float) -> None:
        """It doubles at most, as the next transaction may meet other rows."""
        if made:
            self.size = max(1, min(2 * self.size, int(made * SLICE_TIME / max(seconds, 0.001))))


class Patience:
    """How long to wait for a run in line: up to twice the longest pass that was seen."""

    def __init__(self) -> None:
        self._longest = 0.0

    @property
    def seconds(self) -> float:
        return min(LONGEST_WAIT, max(LEAST_WAIT, 2 * self._longest))

    def note(self, waited: float) -> None:
        """A pass has taken so long, or longer."""
        self._longest = max(self._longest, waited)


class GroupGrower:
    """
    Gives the instances of task groups that grow, in threads of its own.

    Runs that nobody else holds come first. A run that the scheduler is at is waited for in line, by a thread
    that holds nobody else up.

    :param triggerer_id: id of the triggerer's job.
    """

    def __init__(self, triggerer_id: int, board: CommitBoard, dags: DBDagBag) -> None:
        self._triggerer_id, self._board, self._dags = triggerer_id, board, dags
        self._slice, self._patience = Slice(), Patience()
        self._mutex = threading.Lock()
        self._behind: dict[Any, Head] = {}  # heads whose groups may have to grow
        self._in_line: set[Any] = set()
        self._resting: dict[Any, float] = {}  # head -> until when
        self._told: dict[Any, str] = {}  # head -> the last error logged of it
        self._seen: dict[Any, datetime] = {}  # head -> its announcement that was looked at
        self._news, self._stopping = threading.Event(), False
        self._thread: threading.Thread | None = None

    def look(self, heads: Iterable[Head]) -> None:
        """
        See what there is to do; returns at once.

        :param heads: that wait in this triggerer.
        """
        of_groups = {head.id: head for head in heads if head.group_id is not None}
        with self._mutex:
            for memory in (self._behind, self._resting, self._told, self._seen):
                for gone in memory.keys() - of_groups.keys():
                    del memory[gone]
            for head in of_groups.values():
                if self._seen.get(head.id) != head.announced_at:
                    self._seen[head.id] = head.announced_at
                    self._behind[head.id] = head
            if not self._behind:
                return
        self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deferred_expand groups", daemon=True)
            self._thread.start()
        self._news.set()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping:
            self._news.wait(BUSY_LOOK if self._behind else None)
            self._news.clear()
            self._take_turns()

    def _take_turns(self) -> None:
        for head in self._waiting():
            if not self._stopping:
                self._serve(head, None)

    def _waiting(self) -> list[Head]:
        now = time.monotonic()
        with self._mutex:
            return [
                head
                for head in self._behind.values()
                if head.id not in self._in_line and self._resting.get(head.id, 0) < now
            ]

    def _serve(self, head: Head, wait: float | None) -> None:
        try:
            outcome = self._grow(head, wait)
        except Exception as error:
            outcome = self._note(error, head, wait)
        with self._mutex:
            if outcome == "grown":
                self._told.pop(head.id, None)
                if self._behind.get(head.id) is head:  # nothing was announced meanwhile
                    del self._behind[head.id]
            waits = outcome == "locked" and wait is None and len(self._in_line) < IN_LINE
            if waits:
                self._in_line.add(head.id)
        if waits:
            threading.Thread(target=self._stand_in_line, args=(head,), daemon=True).start()
        elif outcome == "behind":
            self._news.set()

    def _stand_in_line(self, head: Head) -> None:
        try:
            self._serve(head, self._patience.seconds)
        finally:
            with self._mutex:
                self._in_line.discard(head.id)
            self._news.set()

    def _grow(self, head: Head, wait: float | None) -> Growing:
        began = time.monotonic()
        with locked_run(head, wait) as session:
            if session is None:
                return "locked"
            locked = time.monotonic()
            if wait is not None:
                self._patience.note(locked - began)
            records = GroupRecords(session, head, self._dags, self._board.beat)
            run = records.lock(self._triggerer_id)
            if run is None:
                return "later"  # something is being committed, or it waits here no more
            grown = grow_announced(records, run, head, self._slice.size)
            made = records.made
        if made:
            held = time.monotonic() - locked
            self._slice.note(made, held)
            self._report(head, made, held)
            self._board.note_commit(name_on_board(head.dag_id, head.run_id, head.task_id))
        return "behind" if grown is not None and grown.is_behind else "grown"

    def _report(self, head: Head, made: int, seconds: float) -> None:
        """Groups grow where metrics are set up wrongly."""
        try:
            report_growth(head, made, seconds)
        except Exception:
            log.debug("cannot send metrics", exc_info=True)

    def _note(self, error: Exception, head: Head, wait: float | None) -> Growing:
        if is_busy(error):
            if wait is not None:
                self._patience.note(wait)
            return "later"
        cause = str(getattr(error, "orig", error))
        with self._mutex:
            self._resting[head.id] = time.monotonic() + GROUP_REST
            is_news = self._told.get(head.id) != cause
            self._told[head.id] = cause
        if is_news:
            log.error(
                "The task group over the stream of DAG %r, run %r, task %r cannot grow: %s",
                head.dag_id, head.run_id, head.task_id, error, exc_info=error,
            )  # fmt: skip
        return "later"
