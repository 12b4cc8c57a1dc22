"""
Streams of DAGs with ``fail_fast``: the first item that fails ends them.

Airflow stops the other tasks of such a run and leaves the instances of the failed task alone
(airflow/models/taskinstance.py, ``_stop_remaining_tasks``), the stream head among them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.comms import count_task_instances
from deferred_expand.exceptions import ItemFailedFast
from deferred_expand.triggers.calls import call_in_thread

if TYPE_CHECKING:
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.ref import StreamRef
    from deferred_expand.triggers.expansion import Expansion

log = logging.getLogger(__name__)

ITEMS_INTERVAL = 2.0  # seconds


def count_failed(ref: StreamRef) -> int:
    """How many items of a stream have failed for good."""
    return count_task_instances(ref.dag_id, ref.run_id, ref.instances_of, states=["failed"])


def require_no_failed_item(definition: StreamDefinition, ref: StreamRef, before: int) -> int:
    """
    :param before: how many had failed when this try of the head began.
    :return: how many of them still have.
    :raises ItemFailedFast: another one has failed.
    """
    failed = count_failed(ref)
    if failed > before:
        raise ItemFailedFast(
            f"{failed - before} item(s) of task {ref.mapped_task_id!r} in DAG {definition.dag_id!r}, run "
            f"{ref.run_id!r}, have failed, and the DAG has fail_fast=True: the source is asked for no more"
        )
    return failed


async def watch_items(expansion: Expansion) -> None:
    """
    Look for items that fail, until one does.

    :raises ItemFailedFast: one has.
    """
    before = expansion.failed_before
    while True:
        await asyncio.sleep(ITEMS_INTERVAL)
        try:
            before = await call_in_thread(require_no_failed_item, expansion.definition, expansion.ref, before)
        except ItemFailedFast:
            raise
        except Exception:
            log.warning("cannot look for failed items of %s", expansion.ref, exc_info=True)
