"""The expander: commits batches and makes task instances, beside the triggerer."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from deferred_expand.airflow_internals.comms import ENDED_STATES
from deferred_expand.airflow_internals.heads import announced_heads, heads_with_removed_items, states_of
from deferred_expand.airflow_internals.locks import is_busy
from deferred_expand.airflow_internals.metadata import StreamRecords, create_session, dag_cache
from deferred_expand.airflow_internals.places import missing_places
from deferred_expand.committing.board import name_on_board
from deferred_expand.committing.store import ANNOUNCEMENT_KEY
from deferred_expand.plugin.children import ChildKeeper
from deferred_expand.plugin.commit import (
    Committed,
    commit_announced,
    fail_if_left_open,
    label_anew,
    restore_removed,
)
from deferred_expand.plugin.controls import ControlWatch
from deferred_expand.plugin.groups import GroupGrower
from deferred_expand.plugin.passes import SchedulerPasses
from deferred_expand.plugin.telemetry import report_commit, report_pending

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from deferred_expand.airflow_internals.heads import Head
    from deferred_expand.committing.board import CommitBoard

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0  # seconds between two looks at the database when nothing is announced
PLACES_INTERVAL = 10.0  # seconds between two looks at what keeps items from running
BOARD_INTERVAL = 0.05  # seconds between two looks at the board, which is memory
REST = 5.0  # seconds for which a stream that could not be committed is left alone
LONGEST_REST = 30.0  # seconds; the same for the database


class Expander:
    """
    A daemon thread that serves the streams whose triggers run in this triggerer.

    An error never leaves it. It is logged once with its cause, and the board falls silent while it
    lasts, so that streams go on with a worker.

    :param triggerer_id: id of the triggerer's job.
    """

    def __init__(self, triggerer_id: int, board: CommitBoard) -> None:
        self._triggerer_id = triggerer_id
        self._board = board
        self._dags = dag_cache()
        self._heads: dict[Any, Head] = {}  # that have waited here, and are not known to be finished
        self._done: dict[Any, datetime] = {}  # head -> its announcement that needs nothing more
        self._resting: dict[Any, float] = {}  # head -> until when
        self._told: dict[Any, str] = {}  # what could not be done -> the last error logged of it
        self._passes = SchedulerPasses()
        self._missing: dict[Any, str] = {}  # head -> what its items miss to run
        self._places_at = 0.0  # when to look at that again
        self._controls = ControlWatch(board)
        self._children = ChildKeeper(triggerer_id, self._dags)
        self._groups = GroupGrower(triggerer_id, board, self._dags)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deferred_expand", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more; a commit that is under way ends."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
            self._groups.stop()

    def _run(self) -> None:
        log.info("The expander of triggerer %d is at work", self._triggerer_id)
        rest = 0.5
        while not self._stopping.is_set():
            announcements = self._board.announcements
            try:
                self._look()
            except Exception as error:
                self._tell_once(None, "cannot look for streams", error)
                rest = min(2 * rest, LONGEST_REST)
                self._stopping.wait(rest)
                continue
            self._told.pop(None, None)
            rest = 0.5
            self._board.beat()
            self._board.note_look()
            self._look_at_children()
            self._report(report_pending, self._board.pending)
            self._wait_for_announcement(announcements)

    def _wait_for_announcement(self, seen: int) -> None:
        look_at = time.monotonic() + LOOK_INTERVAL
        while self._board.announcements == seen and time.monotonic() < look_at:
            if self._stopping.wait(BOARD_INTERVAL):
                return

    def _look(self) -> None:
        with create_session(scoped=False) as session:
            heads = announced_heads(session, self._triggerer_id, ANNOUNCEMENT_KEY)
            damaged = heads_with_removed_items(session, self._triggerer_id) if heads else set()
            gone = self._heads.keys() - {head.id for head in heads}
            states = states_of(session, gone) if gone else {}
            self._controls.look(session)
        self._heads.update((head.id, head) for head in heads)
        for head_id in gone:
            self._let_go(self._heads[head_id], states.get(head_id, "removed"))
        self._forget_all_but({head.id for head in heads})
        for head in heads:
            if self._stopping.is_set():
                return
            is_news = self._done.get(head.id) != head.announced_at
            if (is_news or head.id in damaged) and time.monotonic() > self._resting.get(head.id, 0):
                self._serve(head, head.id in damaged)
                self._board.beat()
        if self._board.grows_groups:
            self._groups.look(heads)
        if heads and time.monotonic() > self._places_at:
            self._places_at = time.monotonic() + PLACES_INTERVAL
            self._look_at_places(heads)

    def _look_at_children(self) -> None:
        try:
            self._children.look()
        except Exception as error:
            self._tell_once("children", "cannot look after the runs of windows", error)
        else:
            self._told.pop("children", None)

    def _look_at_places(self, heads: list[Head]) -> None:
        """Another run's head may have taken the last one, where nothing is committed any more."""
        with create_session(scoped=False) as session:
            missing = missing_places(session, heads, self._dags)
        for head in heads:
            if missing.get(head.id) != self._missing.get(head.id) and head.map_index == 0:
                self._tell_missing(head, missing.get(head.id))

    def _tell_missing(self, head: Head, missing: str | None) -> None:
        with create_session(scoped=False) as session:
            records = StreamRecords(session, head, self._dags, self._board.beat)
            if records.lock(self._triggerer_id) is None or not label_anew(records, head, missing):
                return  # asked again with the next look
        if missing:
            log.warning("No item of %s can run: %s", _name(head), missing)
            self._missing[head.id] = missing
        else:
            self._missing.pop(head.id, None)

    def _serve(self, head: Head, damaged: bool) -> None:
        started = time.monotonic()
        try:
            committed = self._commit(head, damaged)
        except Exception as error:
            if is_busy(error):
                return  # asked again with the next look
            self._resting[head.id] = time.monotonic() + REST
            self._tell_once(head.id, f"cannot commit batches of {_name(head)}, a worker will", error)
            return
        self._told.pop(head.id, None)
        if committed is None or committed.after == committed.before:
            return
        self._board.note_commit(name_on_board(head.dag_id, head.run_id, head.task_id))
        self._report(report_commit, head, committed, time.monotonic() - started)

    def _let_go(self, head: Head, state: str | None) -> None:
        """:param state: of a head that does not wait here any more."""
        try:
            if state == "skipped":
                with create_session(scoped=False) as session:
                    records = StreamRecords(session, head, self._dags, self._board.beat)
                    left = fail_if_left_open(records, head)
                if left is not None:
                    log.warning("Airflow skipped %s; it has failed: %s", _name(head), left.describe())
        except Exception as error:
            if not is_busy(error):
                self._tell_once(head.id, f"cannot fail {_name(head)}, which Airflow skipped", error)
            return  # asked again with the next look
        if state in ENDED_STATES:
            del self._heads[head.id]

    def _commit(self, head: Head, damaged: bool) -> Committed | None:
        with create_session(scoped=False) as session:
            records = StreamRecords(session, head, self._dags, self._board.beat)
            run = records.lock(self._triggerer_id)
            if run is None:
                return None  # asked again with the next look
            if damaged and (restored := restore_removed(records, run, head)):
                log.warning("Gave %d item(s) of %s back that were marked REMOVED", restored, _name(head))
            may_end = self._passes.is_over(head.id, run.last_scheduling_decision)
            committed = commit_announced(records, run, head, self._board.id, may_end=may_end)
        if committed is not None and committed.grew:
            self._passes.note_growth(head.id)
        if committed is None or not committed.holds_back_the_end:
            self._done[head.id] = head.announced_at
        return committed

    def _forget_all_but(self, heads: set[Any]) -> None:
        self._passes.forget_all_but(heads)
        for memory in (self._done, self._resting, self._told, self._missing):
            for gone in [key for key in memory if isinstance(key, UUID) and key not in heads]:
                del memory[gone]

    def _report(self, report: Callable[..., None], *arguments: Any) -> None:
        """Streams go on where metrics or traces are set up wrongly."""
        try:
            report(*arguments)
        except Exception as error:
            self._tell_once(report.__name__, "cannot send metrics or spans", error)

    def _tell_once(self, what: Any, message: str, error: Exception) -> None:
        # A statement that failed comes with its values in the text, among them the time.
        cause = str(getattr(error, "orig", error))
        if self._told.get(what) != cause:
            log.error("The expander %s: %s", message, error, exc_info=error)
            self._told[what] = cause


def _name(head: Head) -> str:
    return f"task {head.task_id!r} of DAG {head.dag_id!r}, run {head.run_id!r}"
