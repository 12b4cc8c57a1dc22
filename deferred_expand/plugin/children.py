"""
What the expander does for windows, whose runs only it can reach.

A worker can have a run of another DAG run again as a whole, and a trigger can ask for its state
(airflow/api_fastapi/execution_api/routes/dag_runs.py): neither can clear what has failed in it, nor
stop it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals import children
from deferred_expand.airflow_internals.locks import is_busy
from deferred_expand.airflow_internals.metadata import create_session
from deferred_expand.committing.store import CHILD_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from deferred_expand.airflow_internals.children import Child, DBDagBag, Waiting

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two looks
MOST_WARNED = 1000  # tasks that are remembered
#: Of an instance that was stopped. Who marks it a success lets its run go on.
STOPPED = ("failed", "skipped", "upstream_failed", "removed")


class ChildKeeper:
    """
    One window that cannot be served keeps no other from it.

    :param triggerer_id: id of the triggerer's job.
    """

    def __init__(self, triggerer_id: int, dags: DBDagBag) -> None:
        self._triggerer_id, self._dags = triggerer_id, dags
        self._look_at = 0.0
        self._told: dict[Any, str] = {}  # instance -> the last error logged of it
        self._warned: set[tuple[str, str, str]] = set()  # tasks whose windows are too many

    def look(self) -> None:
        """Now and then: clear what windows that wait here want cleared, and stop what nobody waits for."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + INTERVAL
        with create_session(scoped=False) as session:
            waiting = children.waiting_here(session, self._triggerer_id, CHILD_KEY)
            stopped = children.in_states(session, CHILD_KEY, STOPPED)
            found = children.look_at(session, {one.run for one in waiting})
        for one in waiting:
            if (child := found.get(one.run)) is None:
                continue
            if child.behind is not None:
                self._warn_of(one, child.behind)
            if _needs_something(one, child):
                self._try(self._serve, one)
        for one in stopped:
            self._try(self._stop, one)
        seen = {one.id for one in (*waiting, *stopped)}
        self._told = {key: error for key, error in self._told.items() if key in seen}

    def _warn_of(self, waiting: Waiting, runs: int) -> None:
        """Once for a run of the stream."""
        place = (waiting.dag_id, waiting.run_id, waiting.task_id)
        if place not in self._warned:
            self._warned = {*list(self._warned)[-MOST_WARNED:], place}
            log.warning(
                "%s has to wait: DAG %r has %d runs, as many as its max_active_runs. More windows than that "
                "wait in vain: let max_pending of the stream be no more, or raise max_active_runs",
                waiting.name, waiting.run[0], runs,
            )  # fmt: skip

    def _try(self, serve: Callable[[children.Session, Waiting], None], waiting: Waiting) -> None:
        """What was not possible is tried again with the next look."""
        try:
            with create_session(scoped=False) as session:
                serve(session, waiting)
        except Exception as error:
            cause = str(getattr(error, "orig", error))
            if not is_busy(error) and self._told.get(waiting.id) != cause:
                log.exception("The run of %s cannot be looked after", waiting.name)
                self._told[waiting.id] = cause

    def _serve(self, session: children.Session, seen: Waiting) -> None:
        waiting = children.lock(session, seen, CHILD_KEY, self._triggerer_id)
        child = children.look_at(session, {waiting.run}).get(waiting.run) if waiting else None
        if waiting is None or child is None:
            return
        children.label(session, waiting, _label(waiting, child))
        if waiting.child["clear"] is None:
            return
        if child.state == "failed" and child.clear_number == waiting.child["clear"]:
            self._clear(session, waiting)
        children.tell(session, waiting, CHILD_KEY, {**waiting.child, "clear": None})

    def _clear(self, session: children.Session, waiting: Waiting) -> None:
        try:
            count = children.clear_failed(session, self._dags, *waiting.run)
        except LookupError as gone:  # the run stays failed, and so does who waits for it
            log.warning("Nothing of run %r is cleared for %s: %s", waiting.run[1], waiting.name, gone)
        else:
            log.info("Cleared %d task instance(s) of run %r for %s", count, waiting.run[1], waiting.name)

    def _stop(self, session: children.Session, seen: Waiting) -> None:
        waiting = children.lock(session, seen, CHILD_KEY)
        if waiting is None:
            return
        children.tell(session, waiting, CHILD_KEY, None)
        try:
            children.fail_run(session, self._dags, *waiting.run)
        except LookupError as gone:
            log.warning("%s is %s, and its run cannot be stopped: %s", waiting.name, waiting.state, gone)
        else:
            log.info("Stopped run %r, as %s is %s", waiting.run[1], waiting.name, waiting.state)


def _needs_something(waiting: Waiting, child: Child) -> bool:
    return waiting.child["clear"] is not None or _label(waiting, child) != waiting.label


def _label(waiting: Waiting, child: Child) -> str:
    label = str(waiting.child["label"])
    return f"{label}: {child.trouble}" if child.trouble else label
