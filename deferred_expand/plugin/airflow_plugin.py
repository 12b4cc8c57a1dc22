"""The plugin, and the listener by which an expander starts and stops with its triggerer."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

from deferred_expand import settings
from deferred_expand.airflow_internals.listeners import AirflowPlugin, hookimpl, triggerer_id
from deferred_expand.airflow_internals.plugins import load_plugins
from deferred_expand.committing.board import CommitBoard, install_board

log = logging.getLogger(__name__)

TRIGGER = "deferred_expand.triggers.streaming"


class ExpanderListener:
    """
    Starts an expander in a triggerer's own process, the one that has the metadata database.

    It is told of a job before it is known what kind of job that is. A triggerer forks once, its
    runner. The board must be there by then, and the thread must not: a fork in the middle of what a
    thread does may leave locks that nobody opens. So the expander is made right before that fork, and
    starts right after it, in the parent only.

    Right before that fork it has the plugins loaded, too: the runner has them then, whole, and imports
    no source while they are loaded. So are this package's triggers, which the first stream does not wait
    for then.

    Nothing is raised, as nobody would see it: what fails in a fork's hooks is not logged.
    """

    def __init__(self) -> None:
        self._job: Any = None  # until it is known to be a triggerer's
        self._made: Any = None  # between the two sides of the fork
        self._expander: Any = None
        self._follows_forks = False

    @hookimpl
    def on_starting(self, component: Any) -> None:
        self._job = component
        if not self._follows_forks:
            self._follows_forks = True
            os.register_at_fork(before=self._make, after_in_parent=self._start, after_in_child=self._forget)

    def _make(self) -> None:
        number = None if self._job is None else triggerer_id(self._job)
        if number is None:
            return
        self._job = None
        try:
            load_plugins()
            import_module(TRIGGER)
        except Exception:
            log.exception("The plugins and triggers cannot be loaded before the trigger runner starts")
        try:
            self._made = self._expander_for(number)
        except Exception:
            log.exception(
                "No expander in triggerer %d, workers will commit batches: it cannot be made", number
            )

    def _expander_for(self, number: int) -> Any:
        if not settings.expander():
            return None
        from deferred_expand.airflow_internals.locks import has_row_locks, locks_rows
        from deferred_expand.plugin.expander import Expander

        if not has_row_locks():
            log.warning(
                "No expander in triggerer %d, workers will commit batches: on MariaDB it cannot lock "
                "rows as it must",
                number,
            )
            return None
        board = CommitBoard(grows_groups=locks_rows())
        expander = Expander(number, board)
        install_board(board)
        return expander

    def _start(self) -> None:
        made, self._made = self._made, None
        if made is None:
            return
        try:
            made.start()
        except Exception:  # the board stays silent, so that streams go to workers
            log.exception("The expander cannot start, workers will commit batches")
        else:
            self._expander = made

    def _forget(self) -> None:
        self._made = None

    @hookimpl
    def before_stopping(self, component: Any) -> None:
        if self._expander is not None:
            self._expander.stop()


class DeferredExpandPlugin(AirflowPlugin):
    """Every component loads it; the pages only those that serve them."""

    name = "deferred_expand"
    listeners: list[Any] = [ExpanderListener()]  # noqa: RUF012  # as AirflowPlugin has it
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Streams",
            "href": "deferred_expand/streams",  # relative: also below a sub-path
            "destination": "nav",
            "category": "browse",
            "url_route": "streams",
        },
        {
            "name": "Streams",
            "href": "deferred_expand/run?dag_id={DAG_ID}&run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "streams-of-run",
        },
    ]

    @property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        """Asked for by the API server alone (airflow/api_fastapi/app.py, ``init_plugins``)."""
        try:
            from deferred_expand.pages.app import app
        except Exception:
            log.exception("There are no pages of streams in the web UI")
            return []
        return [{"app": app, "url_prefix": "/deferred_expand", "name": "Streams"}]
