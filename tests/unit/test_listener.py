"""An expander starts with a triggerer, in its own process, right after it has forked its runner."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from timeit import timeit
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow.jobs.job import Job
from airflow.listeners.listener import get_listener_manager
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from deferred_expand.airflow_internals.locks import has_row_locks
from deferred_expand.committing.board import install_board, installed_board
from deferred_expand.plugin.airflow_plugin import ExpanderListener

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.usefixtures("database"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


def in_fork(call: Callable[[], Any]) -> Any:
    """What the call returns in a fork of this process, which ends then."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer: Any = {"is": call()}
        except BaseException:
            answer = {"raised": traceback.format_exc()}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert "is" in answer, answer["raised"]
    return answer["is"]


def listen() -> None:
    """In a fork only: what is registered at a fork stays registered."""
    listener = ExpanderListener()
    install_board(None)
    get_listener_manager().clear()
    get_listener_manager().add_listener(listener)


def look() -> list[int]:
    """How many expanders and boards there are in this process."""
    return [
        [thread.name for thread in threading.enumerate()].count("deferred_expand"),
        bool(installed_board()),
    ]


def test_it_starts_once_after_the_triggerers_first_fork_in_the_parent_only() -> None:
    def triggerer() -> Any:
        registered: list[Any] = []
        register = os.register_at_fork

        def count(**hooks: Any) -> None:
            registered.append(hooks)
            register(**hooks)

        os.register_at_fork = count
        listen()
        for number in range(3):
            Job(job_type="SchedulerJob", id=number)
        of_scheduler = [in_fork(look), look()]
        job = Job(job_type="TriggererJob")
        without_id = [in_fork(look), look()]
        job.id = 7
        runner, its_fork = in_fork(lambda: [look(), in_fork(look), look()][:2])
        own, later_fork = look(), in_fork(look)
        return [len(registered), of_scheduler, without_id, runner, its_fork, own, later_fork, look()]

    none, board_only, expander = [0, False], [0, True], [1, True]
    assert in_fork(triggerer) == [
        1, [none, none], [none, none], board_only, board_only, expander, board_only, expander,
    ]  # fmt: skip


def test_what_keeps_it_from_starting_is_logged_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def triggerer(breaks: Callable[[], None]) -> Any:
        listen()
        Job(job_type="TriggererJob", id=7)
        breaks()
        in_fork(look)
        (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
        return [record.getMessage(), repr(record.exc_info and record.exc_info[1]), look()]

    def import_fails() -> None:
        monkeypatch.setitem(sys.modules, "deferred_expand.plugin.expander", None)

    def no_thread_starts() -> None:
        def start(*_: Any) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)

    message, cause, found = in_fork(lambda: triggerer(import_fails))
    assert message == "No expander in triggerer 7, workers will commit batches: it cannot be made"
    assert "deferred_expand.plugin.expander" in cause
    assert found == [0, False], "streams go to workers at once"
    message, cause, found = in_fork(lambda: triggerer(no_thread_starts))
    assert message == "The expander cannot start, workers will commit batches"
    assert "can't start new thread" in cause
    assert found == [0, True], "a board on which nobody beats"


@pytest.mark.parametrize(
    ("dialect", "can"), [(MariaDBDialect(), False), (MySQLDialect(), True), (SQLiteDialect(), True)]
)
def test_mariadb_is_refused(
    dialect: Any, can: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With SQLAlchemy's own dialect, but without its server."""

    def triggerer() -> Any:
        listen()
        Job(job_type="TriggererJob", id=7)
        in_fork(look)
        in_fork(look)
        return [look(), [message for message in caplog.messages if "MariaDB" in message]]

    monkeypatch.setattr(settings, "engine", SimpleNamespace(dialect=dialect))
    assert has_row_locks() is can
    if not can:
        found, messages = in_fork(triggerer)
        assert found == [0, False]
        assert len(messages) == 1


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def triggerer() -> Any:
        listen()
        Job(job_type="TriggererJob", id=7)
        in_fork(look)
        return look()

    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__EXPANDER", "False")
    assert in_fork(triggerer) == [0, False]


def test_a_fork_of_another_component_costs_next_to_nothing() -> None:
    listener = ExpanderListener()
    listener._job = Job(job_type="SchedulerJob", id=1)

    def hooks() -> None:
        listener._make()
        listener._start()

    assert timeit(hooks, number=10_000) < 0.5
