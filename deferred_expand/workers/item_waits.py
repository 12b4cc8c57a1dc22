"""Items that wait: with what another process goes on with them, and what became of their waits."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deferred_expand.airflow_internals.items import pack_events, tell_events
from deferred_expand.airflow_internals.sdk import BaseXCom, XCom
from deferred_expand.committing.codec import decode_item, encode_item
from deferred_expand.sources.chain import Hop
from deferred_expand.sources.plain_json import write
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.triggers.items import ItemsTrigger, outcomes_key

if TYPE_CHECKING:
    from deferred_expand.iterating.ledger import Ledger

log = logging.getLogger(__name__)


class ItemWait:
    """
    Of one item, from hop to hop.

    :param ends: when its time is over, in seconds since the epoch.
    :param largest: bytes that can be kept of it; ``None``: there is no limit.
    """

    def __init__(self, context: Any, ends: float | None, largest: int | None) -> None:
        self._context, self._ends, self._largest = context, ends, largest
        self._last: tuple[str, str] = ("", "")

    def keep(self, hop: Hop) -> dict[str, Any] | None:
        """
        :return: JSON, sealed where it may have credentials; the same for the same hop of an operator
            that asks again and again. ``None``: only this process can go on with it.
        """
        ti = self._context["ti"]
        try:
            pushed = {key: encode_item(value, ti.item_index) for key, value in ti.pushed.items()}
            state = {"hop": hop.to_cursor(), "pushed": pushed, "events": pack_events(self._context)}
            text = write(state)
        except Exception as error:
            log.info("Item %d can only be waited for here: %s", ti.item_index, error)
            return None
        if text != self._last[0]:
            self._last = (text, seal(state))
        if self._largest is not None and len(self._last[1]) > self._largest:
            return None
        until = None if hop.timeout is None else time.time() + hop.timeout
        return {"hop": self._last[1], "until": until, "ends": self._ends}

    def restore(self, kept: dict[str, Any]) -> tuple[Hop, dict[str, Any] | None]:
        """:return: the hop, with what is left of its time-out, and its outcome, if that is known."""
        state = unseal(kept["hop"])
        ti = self._context["ti"]
        ti.pushed.update({key: decode_item(text) for key, text in state["pushed"].items()})
        tell_events(self._context, state["events"])
        hop = Hop.from_cursor(state["hop"]).until(kept["until"])
        outcome = kept.get("outcome")
        return hop, None if outcome is None else unseal(outcome)


def trigger_of(waiting: dict[int, dict[str, Any]], where: dict[str, Any], until: float) -> ItemsTrigger:
    """
    Waits in the stead of the task instance.

    :param where: the task instance.
    :param until: when it shall come back, in seconds since the epoch.
    """
    rows = [[index, kept["hop"], kept["until"], kept["ends"]] for index, kept in sorted(waiting.items())]
    return ItemsTrigger(where=where, name=uuid4().hex, waiting=rows, until=until)


def take_outcomes(ledger: Ledger, event: dict[str, Any], where: dict[str, Any], largest: int | None) -> int:
    """
    Have the ledger know what a trigger has seen, so that nobody waits for it another time. It blocks.

    :param largest: bytes of an outcome that can be written down; a larger one only this process knows.
    :return: how many items go on.
    """
    keys = [outcomes_key(event["name"], number) for number in range(event.get("chunks", 0))]
    told = 0
    for key in keys:
        for index, outcome, at in XCom.get_one(key=key, **where) or []:
            fits = largest is None or len(outcome) <= largest
            ledger.tell(index, {"outcome": outcome, "at": at}, write=fits)
            told += 1
    unwritten = ledger.take_unwritten()
    ledger.write(unwritten, None)
    ledger.note_written(unwritten)
    for key in keys:
        with suppress(Exception):  # nobody reads it again
            if BaseXCom.get_one(key=key, **where) is not None:
                XCom.delete(key=key, **where)
    return told
