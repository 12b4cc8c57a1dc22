"""How whoever waits for a stream ends, without a worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.comms import count_task_instances
from deferred_expand.airflow_internals.sdk import TaskSkippedEvent, TaskSuccessEvent
from deferred_expand.committing.store import StreamStore
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.calls import call_in_thread
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.sdk import TriggerEvent
    from deferred_expand.streams.commit_log import CommitLog
    from deferred_expand.triggers.expansion import Expansion

INSTANCES_WAIT = 30.0  # seconds for the expander to bring back what the scheduler marked REMOVED


async def end_of_stream(expansion: Expansion, committed: CommitLog) -> BatchEvent | TriggerEvent:
    """
    What ends the head once every committed item has its instance.

    The expander brings back instances that the scheduler took for surplus. A worker has the
    last word when it does not.
    """
    ref, loop = expansion.ref, asyncio.get_running_loop()
    await _delete_left(expansion, committed)
    if expansion.definition.group is not None:
        return _end_beside_group(expansion, committed)
    if not expansion.for_head:
        return TaskSuccessEvent()
    gives_up_at = loop.time() + INSTANCES_WAIT
    while loop.time() < gives_up_at:
        count = await call_in_thread(count_task_instances, ref.dag_id, ref.run_id, ref.instances_of)
        if count > committed.items:
            return TaskSuccessEvent() if committed.items else TaskSkippedEvent()
        await asyncio.sleep(1)
    return BatchEvent.empty(committed.stream)


def _end_beside_group(expansion: Expansion, committed: CommitLog) -> BatchEvent | TriggerEvent:
    """What is less than the expander has made, or made without it, is a worker's to push the length of."""
    if expansion.for_head:
        return TaskSuccessEvent() if committed.items else TaskSkippedEvent()
    if committed.grown is not None and committed.grown >= expansion.until:
        return TaskSuccessEvent()
    return BatchEvent.empty(committed.stream)


async def _delete_left(expansion: Expansion, committed: CommitLog) -> None:
    if committed.left:
        thread = Threads("stager")  # an XCom backend may stand still
        try:
            await thread.run(StreamStore(expansion.ref).delete_left, committed)
        finally:
            thread.close()
