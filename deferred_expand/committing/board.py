"""Memory that a triggerer's expander shares with the triggers in its runner process."""

from __future__ import annotations

import mmap
import time
import zlib
from uuid import uuid4

SLOTS = 4096
BEAT_TIMEOUT = 5.0  # seconds

_ANNOUNCED, _PENDING, _BEAT, _LOOKS, _GROWS, _FIRST_SLOT = range(6)


class CommitBoard:
    """
    Hints between two processes: here is something to commit; something was committed.

    They save both sides from asking the database again and again. Nothing depends on them but
    speed: what is announced and what is committed stands in the database.

    It is made before the triggerer forks its runner. Each number has one writer, so there are no
    locks. Streams share the slots by hash; who reads a neighbour's change asks once for nothing.

    :param grows_groups: the expander can make task groups grow, in this database.
    """

    def __init__(self, *, grows_groups: bool = False) -> None:
        self.id = uuid4().hex
        """Addresses announcements: an expander heeds only those of its own triggerer."""
        self._made_at = time.monotonic()
        memory = mmap.mmap(-1, 8 * (_FIRST_SLOT + SLOTS))
        self._integers = memoryview(memory).cast("Q")
        self._floats = memoryview(memory).cast("d")
        self._integers[_GROWS] = grows_groups

    # -- the expander's side ----------------------------------------------------------------------

    def beat(self) -> None:
        """The expander is there, and can reach the database."""
        self._floats[_BEAT] = time.monotonic()

    def note_look(self) -> None:
        """The expander has served all that it has found."""
        self._integers[_LOOKS] += 1

    def note_commit(self, stream: str) -> None:
        self._integers[_slot(stream)] += 1

    def note_control(self, stream: str) -> None:
        """A person has changed something: ``stream`` as :func:`control_on_board` says."""
        self._integers[_slot(stream)] += 1

    @property
    def announcements(self) -> int:
        return self._integers[_ANNOUNCED]

    @property
    def pending(self) -> int:
        """Items that are staged by this triggerer's walks, and not yet committed."""
        return self._integers[_PENDING]

    # -- the triggers' side -----------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        """Whether the expander has beaten lately; a new one has the same time to begin."""
        return time.monotonic() - max(self._floats[_BEAT], self._made_at) < BEAT_TIMEOUT

    @property
    def grows_groups(self) -> bool:
        """Whether there is an expander that makes task groups grow."""
        return bool(self._integers[_GROWS]) and self.is_alive

    @property
    def looks(self) -> int:
        """How often the expander has been through all streams."""
        return self._integers[_LOOKS]

    def note_announcement(self) -> None:
        self._integers[_ANNOUNCED] += 1

    def add_pending(self, items: int) -> None:
        self._integers[_PENDING] += items

    def commits(self, stream: str) -> int:
        """A number that changes when something of the stream is committed."""
        return self._integers[_slot(stream)]

    def controls(self, stream: str) -> int:
        """A number that changes when what a person wants of the stream does."""
        return self._integers[_slot(stream)]


def control_on_board(dag_id: str, run_id: str, task_id: str) -> str:
    """:param task_id: of the unmapped task."""
    return f"control of {name_on_board(dag_id, run_id, task_id)}"


def name_on_board(dag_id: str, run_id: str, task_id: str) -> str:
    """:param task_id: of the instance that waits for the stream."""
    return f"{dag_id}/{run_id}/{task_id}"


def _slot(stream: str) -> int:
    return _FIRST_SLOT + zlib.crc32(stream.encode()) % SLOTS


_board: CommitBoard | None = None


def install_board(board: CommitBoard | None) -> None:
    global _board
    _board = board


def installed_board() -> CommitBoard | None:
    """The board of this triggerer; ``None`` where there is no expander."""
    return _board
