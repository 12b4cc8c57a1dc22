"""The board is shared by a process and its fork."""

from __future__ import annotations

import os

from deferred_expand.committing.board import BEAT_TIMEOUT, SLOTS, CommitBoard


def in_fork(call: object) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            call()  # type: ignore[operator]
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_what_the_runner_announces_its_parent_sees() -> None:
    board = CommitBoard()
    in_fork(board.note_announcement)
    in_fork(lambda: board.add_pending(7))
    in_fork(lambda: board.add_pending(-3))
    assert board.announcements == 1
    assert board.pending == 4


def test_what_is_committed_the_other_process_sees() -> None:
    board = CommitBoard()
    before = board.commits("dag/run/task")
    in_fork(lambda: board.note_commit("dag/run/task"))
    assert board.commits("dag/run/task") == before + 1
    assert sum(board.commits(str(n)) for n in range(3 * SLOTS)) < SLOTS, "other streams see nothing"


def test_an_expander_that_falls_silent_is_noticed(monkeypatch: object) -> None:
    now = [1000.0]
    monkeypatch.setattr("deferred_expand.committing.board.time.monotonic", lambda: now[0])  # type: ignore[attr-defined]
    board = CommitBoard()
    assert board.is_alive, "it has time to begin"
    now[0] += BEAT_TIMEOUT + 1
    assert not board.is_alive
    board.beat()
    assert board.is_alive
    now[0] += BEAT_TIMEOUT + 1
    assert not board.is_alive
