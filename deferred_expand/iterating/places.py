"""Items that run, those among them that only wait, and when another process shall wait in their stead."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deferred_expand.iterating.ledger import FORGOTTEN, WAITING
from deferred_expand.iterating.spool import Row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from deferred_expand.iterating.checkpoints import Checkpoints
    from deferred_expand.iterating.ledger import Ledger


@dataclass(frozen=True)
class Item:
    """
    :param digest: of what it is given; empty where that has no stable form.
    :param given: for whoever runs it.
    :param kept: with which it goes on where it waited; ``None``: it begins.
    """

    index: int
    digest: str
    given: Any
    kept: dict[str, Any] | None = None


@dataclass(frozen=True)
class HandOver:
    """
    When nothing is left but to wait, and somebody else can do that.

    :param after: seconds for which all that runs has only waited.
    :param most_items: that can be handed over.
    :param most_bytes: of what they go on with, as JSON.
    """

    after: float
    most_items: int
    most_bytes: int

    def takes(self, places: Collection[ItemPlace]) -> bool:
        return 0 < len(places) <= self.most_items and (
            sum(len(json.dumps(place.kept)) for place in places) <= self.most_bytes
        )


class ItemPlace:
    """
    Of an item that runs.

    :ivar kept: with which another process can go on with it; ``None``: it cannot.
    """

    def __init__(
        self, item: Item, ledger: Ledger, checkpoints: Checkpoints, changed: asyncio.Event, note_after: float
    ) -> None:
        self.item = item
        self.kept: dict[str, Any] | None = None
        self._ledger, self._checkpoints, self._changed = ledger, checkpoints, changed
        self._note_after = note_after
        self._noted = item.kept
        self._noting: asyncio.TimerHandle | None = None
        self._busy = 0

    @property
    def only_waits(self) -> bool:
        return self.kept is not None and not self._busy

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While a thread runs for it."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._changed.set()

    async def wait(self, kept: dict[str, Any]) -> None:
        """
        It waits from now on, until :meth:`go_on`.

        Where that takes longer than the interval of checkpoints, it is written down.

        :param kept: JSON.
        """
        self.kept = kept
        self._changed.set()
        if self._note_after:
            self._noting = asyncio.get_running_loop().call_later(self._note_after, self.note)
        elif row := self.note():
            await self._checkpoints.note(row)

    def go_on(self) -> None:
        """It waits no more."""
        self.kept = None
        if self._noting is not None:
            self._noting.cancel()

    def note(self) -> int | None:
        """Have it written down that it waits, unless that is known; see :meth:`Ledger.add`."""
        if self.kept is None or self.kept == self._noted:
            return None
        self._noted = self.kept
        self._checkpoints.mark()
        return self._ledger.add(Row(self.item.index, self.item.digest, WAITING, None, self.kept))

    def forget(self) -> None:
        """That it waits: who runs it again shall begin."""
        self.go_on()
        if self._noted is not None:
            self._noted = None
            self._ledger.add(Row(self.item.index, "", FORGOTTEN))
