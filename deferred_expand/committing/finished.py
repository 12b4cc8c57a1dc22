"""What finished items have returned, for a source that takes ``results``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.comms import (
    ENDED_STATES,
    count_task_instances,
    finished_items,
    is_in_process,
)
from deferred_expand.committing.store import StreamStore
from deferred_expand.walking.results import FinishedResults

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from deferred_expand.streams.ref import StreamRef
    from deferred_expand.walking.threads import Threads


def finished_results(
    ref: StreamRef,
    thread: Threads,
    given: Callable[[], int],
    hurry: Callable[[], None],
    *,
    asking: Threads | None = None,
    outside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> FinishedResults:
    """
    :param thread: the source's, for XCom backends that block.
    :param given: how many items it has given; see :class:`FinishedResults`.
    :param asking: for what is asked of Airflow only; without, the source's as well.
    """
    instances = (ref.dag_id, ref.run_id, ref.instances_of)
    store, ask = StreamStore(ref), (asking or thread).run

    async def finished(numbers: Collection[int]) -> set[int]:
        by_index = {ref.index_of(number): number for number in numbers}
        return {by_index[index] for index in await ask(finished_items, *instances, by_index)}

    return FinishedResults(
        lambda: ask(count_task_instances, *instances, states=ENDED_STATES),
        finished,
        lambda number: thread.run(store.read_result, number),
        given,
        hurry,
        waits=not is_in_process(),
        outside=outside,
    )
