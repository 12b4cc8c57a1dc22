"""How many items may fail."""

from __future__ import annotations

from dataclasses import dataclass

FEWEST_ENDED = 20  # items, below which a share of those that have ended says nothing


@dataclass(frozen=True)
class Tolerance:
    """
    Of one task instance.

    :param items: that many may fail; ``None``: ``percent`` says how many.
    :param percent: of all items; of those that have ended, from 20 on, where it is not known how many
        there are.
    """

    items: int | None = 0
    percent: float = 0.0

    @classmethod
    def of(cls, given: object) -> Tolerance:
        """
        :param given: ``50``, or ``"5%"``.
        :raises ValueError: saying what it must be.
        """
        if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
            return cls(given)
        if isinstance(given, str) and given.endswith("%"):
            try:
                percent = float(given[:-1])
            except ValueError:
                percent = -1.0
            if 0 <= percent <= 100:
                return cls(None, percent)
        raise ValueError(
            f"tolerate is {given!r}; it must be a number of items, 0 or more, or a share like '5%'"
        )

    def is_exceeded(self, failed: int, ended: int, total: int | None) -> bool:
        """:param ended: items, those that failed among them."""
        if self.items is not None:
            return failed > self.items
        if total is None and ended < FEWEST_ENDED:
            return False
        return failed * 100 > self.percent * (ended if total is None else total)

    def most(self, total: int) -> int:
        """Of so many items."""
        return self.items if self.items is not None else int(self.percent * total // 100)
