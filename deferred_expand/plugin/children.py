"""
What the expander does for windows, whose runs only it can reach.

A worker can have a run of another DAG run again as a whole, and a trigger can ask for its state
(airflow/api_fastapi/execution_api/routes/dag_runs.py): neither can clear what has failed in it, nor
stop it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals import children
from deferred_expand.airflow_internals.locks import is_busy
from deferred_expand.airflow_internals.metadata import create_session
from deferred_expand.committing.store import CHILD_KEY

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.children import Child, DBDagBag, Waiting

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two looks
#: Of an instance that was stopped. Who marks it a success lets its run go on.
STOPPED = ("failed", "skipped", "upstream_failed", "removed")


class ChildKeeper:
    """:param triggerer_id: id of the triggerer's job."""

    def __init__(self, triggerer_id: int, dags: DBDagBag) -> None:
        self._triggerer_id, self._dags = triggerer_id, dags
        self._look_at = 0.0

    def look(self) -> None:
        """Now and then: clear what windows that wait here want cleared, and stop what nobody waits for."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + INTERVAL
        with create_session(scoped=False) as session:
            waiting = children.waiting_here(session, self._triggerer_id, CHILD_KEY)
            stopped = children.in_states(session, CHILD_KEY, STOPPED)
            runs = {(one.child["dag_id"], one.child["run_id"]) for one in waiting}
            found = children.look_at(session, runs)
        for one in waiting:
            child = found.get((one.child["dag_id"], one.child["run_id"]))
            if child is not None:
                self._serve(one, child)
        for one in stopped:
            self._stop(one)

    def _serve(self, waiting: Waiting, child: Child) -> None:
        wanted = waiting.child["clear"]
        label = waiting.child["label"]
        if child.trouble:
            label = f"{label}: {child.trouble}"
        if wanted is None and label == waiting.label:
            return
        with create_session(scoped=False) as session:
            if not children.lock_instance(session, waiting):
                return  # asked again with the next look
            if label != waiting.label:
                children.label(session, waiting, label)
            if wanted is not None:
                self._clear(session, waiting, child)

    def _clear(self, session: children.Session, waiting: Waiting, child: Child) -> None:
        told = waiting.child
        if child.state == "failed" and child.clear_number == told["clear"]:
            count = children.clear_failed(session, self._dags, told["dag_id"], told["run_id"])
            log.info("Cleared %d failed task instance(s) of %r for %s", count, told["run_id"], waiting.name)
        children.tell(session, waiting, CHILD_KEY, {**told, "clear": None})

    def _stop(self, waiting: Waiting) -> None:
        told = waiting.child
        try:
            with create_session(scoped=False) as session:
                if not children.lock_instance(session, waiting):
                    return
                children.tell(session, waiting, CHILD_KEY, None)
                children.fail_run(session, self._dags, told["dag_id"], told["run_id"])
        except LookupError as gone:
            log.warning("%s is %s, and its run cannot be stopped: %s", waiting.name, waiting.state, gone)
            with create_session(scoped=False) as session:
                children.tell(session, waiting, CHILD_KEY, None)
        except Exception as error:
            if not is_busy(error):
                raise
        else:
            log.info(
                "Stopped %r of DAG %r, as %s is %s",
                told["run_id"],
                told["dag_id"],
                waiting.name,
                waiting.state,
            )
