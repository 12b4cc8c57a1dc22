"""``WindowRunTrigger``: waits for the run of another DAG that works on a window."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.runs import dag_run_state
from deferred_expand.airflow_internals.sdk import BaseTrigger, BaseXCom, TriggerEvent
from deferred_expand.committing.board import installed_board
from deferred_expand.triggers.calls import call_in_thread
from deferred_expand.walking.pauses import pauses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHILD_LOOK = 1.0  # seconds between two looks at the child, at first
UNHEARD_AFTER = 20.0  # seconds in which an expander would have cleared what has failed


class WindowRunTrigger(BaseTrigger):
    """
    :param dag_id: of the child.
    :param asked: where the instance has told of it, and asked for its failed tasks to be cleared.
    """

    def __init__(self, *, dag_id: str, run_id: str, asked: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id, self.run_id, self.asked = dag_id, run_id, asked

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"dag_id": self.dag_id, "run_id": self.run_id, "asked": self.asked}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """What Airflow's triggerer calls."""
        if await self._is_cleared():
            yield TriggerEvent({"state": await self._end()})
        else:
            yield TriggerEvent({"state": "unheard"})

    async def _is_cleared(self) -> bool:
        """Wait until the expander has cleared what has failed, if it was asked; ``False``: there is none."""
        heard_at = time.monotonic()
        while True:
            told = await call_in_thread(lambda: BaseXCom.get_one(**self.asked))
            if told is None or told["clear"] is None:
                return True
            board = installed_board()
            if board is not None and board.is_alive:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > UNHEARD_AFTER:
                return False
            await asyncio.sleep(CHILD_LOOK)

    async def _end(self) -> str:
        waits = pauses(CHILD_LOOK)
        while True:
            state = await call_in_thread(dag_run_state, self.dag_id, self.run_id)
            if state is None:
                return "deleted"
            if state in ("success", "failed"):
                return state
            await asyncio.sleep(next(waits))
