"""The plugin, and the listener by which an expander starts and stops with its triggerer."""

from __future__ import annotations

import os
from typing import Any

from deferred_expand import settings
from deferred_expand.airflow_internals.listeners import AirflowPlugin, hookimpl, triggerer_id
from deferred_expand.airflow_internals.plugins import load_plugins
from deferred_expand.committing.board import CommitBoard, install_board


class ExpanderListener:
    """
    Starts an expander in a triggerer's own process, the one that has the metadata database.

    It is told of a job before it is known what kind of job that is. The board must be there when
    the triggerer forks its runner, and the thread must not: a fork in the middle of what a thread
    does may leave locks that nobody opens. So it starts right after that fork, and only in the parent.

    Before that fork it has the plugins loaded: the runner has them then, whole, and imports no source
    while they are loaded.
    """

    def __init__(self) -> None:
        self._expander: Any = None

    @hookimpl
    def on_starting(self, component: Any) -> None:
        os.register_at_fork(before=lambda: self._prepare_fork(component))
        if not settings.expander():
            return
        board = CommitBoard()
        install_board(board)
        os.register_at_fork(after_in_parent=lambda: self._start(component, board))

    def _prepare_fork(self, job: Any) -> None:
        if triggerer_id(job) is not None:
            load_plugins()

    def _start(self, job: Any, board: CommitBoard) -> None:
        number = triggerer_id(job)
        if self._expander is not None or number is None:
            return
        from deferred_expand.plugin.expander import Expander

        self._expander = Expander(number, board)
        self._expander.start()

    @hookimpl
    def before_stopping(self, component: Any) -> None:
        if self._expander is not None:
            self._expander.stop()


class DeferredExpandPlugin(AirflowPlugin):
    name = "deferred_expand"
    listeners: list[Any] = [ExpanderListener()]  # noqa: RUF012  # as AirflowPlugin has it
