"""Whether the scheduler is done with what it read before a stream grew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime


class SchedulerPasses:
    """
    Follows the scheduler's passes over the runs of open streams.

    In one pass it reads a mapped length, later the existing indexes, and marks REMOVED what is
    beyond (airflow/models/dagrun.py, ``_revise_map_indexes_if_mapped``); others see that when the
    pass is committed, some loops of other runs later. The expander gives such items back, but only
    while their head is deferred. So a stream may end when the pass is over that may have begun before
    it grew.

    Passes over one run follow one another, as each locks its row, and each leaves another
    ``last_scheduling_decision``. One change of that after the growth is therefore enough, whoever's
    clock it is.
    """

    def __init__(self) -> None:
        self._seen: dict[Any, datetime | None] = {}

    def note_growth(self, head: Any) -> None:
        """What a later look at the run finds is what counts from here on."""
        self._seen.pop(head, None)

    def is_over(self, head: Any, last_pass: datetime | None) -> bool:
        """
        Whether a pass has ended since the stream of this head last grew; not known yet: no.

        :param last_pass: of its run, read after the growth was committed.
        """
        seen = self._seen.setdefault(head, last_pass)
        return last_pass is not None and last_pass != seen

    def forget_all_but(self, heads: Collection[Any]) -> None:
        for gone in self._seen.keys() - heads:
            del self._seen[gone]
