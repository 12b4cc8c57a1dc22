"""
Streams that end when items fail: the first one in DAGs with ``fail_fast``, more than ``tolerate`` in others.

Airflow stops the other tasks of a run that fails fast and leaves the instances of the failed task alone
(airflow/models/taskinstance.py, ``_stop_remaining_tasks``), the stream head among them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from deferred_expand.exceptions import TooManyItemsFailed
from deferred_expand.triggers.calls import call_in_thread
from deferred_expand.triggers.counts import count_failed, count_tried

if TYPE_CHECKING:
    from collections.abc import Callable

    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.control import Control
    from deferred_expand.triggers.expansion import Expansion

log = logging.getLogger(__name__)

ITEMS_INTERVAL = 2.0  # seconds


def require_few_failed_items(definition: StreamDefinition, run_id: str, before: int, control: Control) -> int:
    """
    :param control: what holds of it.
    :param before: how many had failed when this try of the head began.
    :return: how many of them still have.
    :raises TooManyItemsFailed: more than are tolerated have failed since.
    """
    tolerance = control.tolerance
    if tolerance is None:
        return before
    failed = count_failed(definition, run_id)
    if failed <= before:
        return failed
    ended = 0
    if tolerance.items is None:
        ended = count_tried(definition, run_id)
    if tolerance.is_exceeded(failed - before, ended, None):
        why = (
            "and the DAG has fail_fast=True"
            if definition.fail_fast
            else f"more than tolerate={control.tolerate!r} allows"
        )
        raise TooManyItemsFailed(
            f"{failed - before} item(s) of {_whose(definition)} in DAG {definition.dag_id!r}, run "
            f"{run_id!r}, have failed, {why}: the source is asked for no more"
        )
    return before


def _whose(definition: StreamDefinition) -> str:
    if definition.group is not None:
        return f"task group {definition.group.group_id!r}"
    return f"task {definition.mapped_task_id!r}"


async def watch_items(expansion: Expansion, control: Callable[[], Control]) -> None:
    """
    Look for items that fail, until too many have.

    :param control: what holds of the stream at a time.
    :raises TooManyItemsFailed: they have.
    """
    definition, run_id, before = expansion.definition, expansion.run_id, expansion.failed_before
    while True:
        await asyncio.sleep(ITEMS_INTERVAL)
        holds = control()
        if holds.tolerance is None:
            continue
        try:
            before = await call_in_thread(require_few_failed_items, definition, run_id, before, holds)
        except TooManyItemsFailed:
            raise
        except Exception:
            log.warning("cannot look for failed items of %s", expansion.ref, exc_info=True)
