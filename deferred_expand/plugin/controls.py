"""Notices what people change of streams, so that triggers need not ask all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.heads import written_by_people
from deferred_expand.committing.board import control_on_board
from deferred_expand.committing.store import CONTROL_KEY

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from deferred_expand.committing.board import CommitBoard


class ControlWatch:
    """Of the streams of all running runs: which triggerer walks one is not asked."""

    def __init__(self, board: CommitBoard) -> None:
        self._board = board
        self._seen: dict[tuple[str, str, str], datetime] = {}

    def look(self, session: Session) -> None:
        """Put on the board what was written, written anew or deleted since the last look."""
        found = written_by_people(session, CONTROL_KEY)
        for stream in found.keys() | self._seen.keys():
            if found.get(stream) != self._seen.get(stream):
                self._board.note_control(control_on_board(*stream))
        self._seen = found
