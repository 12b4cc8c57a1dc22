"""The expander waits for nobody who holds a stream's rows."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest

from deferred_expand.committing.board import BEAT_TIMEOUT, CommitBoard
from deferred_expand.plugin.expander import Expander
from deferred_expand.testing.local_airflow import wait_until
from tests.metadata_database import TRIGGERER, OpenStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HELD = {
    "head": "task_instance where dag_id = %s and map_index = 0",
    "trigger": "trigger where id in (select trigger_id from task_instance where dag_id = %s)",
    "mapped_length": "task_map where dag_id = %s",
    "commit_log": "xcom where dag_id = %s",
}


@pytest.fixture
def expander(caplog: pytest.LogCaptureFixture) -> Iterator[Expander]:
    """Not started; it must log no error."""
    expander = Expander(TRIGGERER, Beats())
    yield expander
    expander.stop()
    assert not [record for record in caplog.get_records("call") if record.levelno > logging.INFO]


class Beats(CommitBoard):
    """Remembers when the expander has beaten."""

    def __init__(self) -> None:
        super().__init__()
        self.times = [time.monotonic()]

    def beat(self) -> None:
        super().beat()
        self.times.append(time.monotonic())

    @property
    def longest_silence(self) -> float:
        return max(after - before for before, after in pairwise(self.times))


def check_that_others_are_served(
    expander: Expander, held: OpenStream, other: OpenStream, release: Callable[[], None]
) -> None:
    board = expander._board
    assert isinstance(board, Beats)
    expander.start()
    for batches in range(1, 4):
        other.announce(board.id, *batches * [2])
        board.note_announcement()
        wait_until("it is committed", lambda: other.items() == 2 * batches, 20, every=0.05)  # noqa: B023
    assert held.items() == 0
    release()
    wait_until("what was held is committed", lambda: held.items() == 3, 20, every=0.05)
    assert [len(stream.rows()) for stream in (held, other)] == [3, 6]
    assert board.longest_silence < BEAT_TIMEOUT


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("what", HELD)
def test_others_are_served_while_someone_holds(what: str, database: str, expander: Expander) -> None:
    held, other = (OpenStream.begin(f"{name}_{what}") for name in ("held", "other"))
    held.announce(expander._board.id, 3)
    with psycopg.connect(database) as holder:
        assert holder.execute(f"select 1 from {HELD[what]} for update", [held.dag_id]).fetchall()
        check_that_others_are_served(expander, held, other, holder.rollback)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_it_goes_on_beating_while_someone_writes_on_sqlite(database: str, expander: Expander) -> None:
    stream = OpenStream.begin("held")
    stream.announce(expander._board.id, 3)
    board = expander._board
    assert isinstance(board, Beats)
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)) as holder:
        holder.execute("begin immediate")
        expander.start()
        wait_until("it has beaten for a while", lambda: len(board.times) > 5, 20, every=0.05)
        assert stream.items() == 0
    wait_until("what was held is committed", lambda: stream.items() == 3, 20, every=0.05)
    assert board.longest_silence < BEAT_TIMEOUT
