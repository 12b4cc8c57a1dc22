"""What the tasks of a window's run have returned."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.comms import count_task_instances, is_mapped
from deferred_expand.airflow_internals.sdk import BaseXCom, XCom
from deferred_expand.exceptions import WindowRunFailed
from deferred_expand.workers.item_results import RESULTS_KEY, RETURNED, IteratedResults
from deferred_expand.workers.lazy import LazySequence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def window_results(told: Mapping[str, Any]) -> Sequence[Any]:
    """
    The results of a window, in order: of the task that ``results_of`` names, read when they are asked for.

    For tasks that are given the output of a :class:`~deferred_expand.WindowRunOperator`, and for sources
    that take ``results``. What was skipped or has failed gives ``None``.

    :param told: what an instance of the operator has returned.
    :raises WindowRunFailed: it was not told whose results.
    """
    if not told or not told.get("task_id"):
        raise WindowRunFailed(
            f"{told!r} names no task: say results_of= to the WindowRunOperator, and which task it shall be"
        )
    where = {name: told[name] for name in ("dag_id", "run_id", "task_id")}
    iterated = BaseXCom.get_one(key=f"{RESULTS_KEY}.{RETURNED}", map_index=0, **where)
    if iterated is not None:
        count = count_task_instances(**where)
        return IteratedResults(where, range(count), in_turn=True)
    return WindowResults(where)


class WindowResults(LazySequence[Any]):
    """:param where: the task: ``dag_id``, ``run_id`` and ``task_id``."""

    def __init__(self, where: dict[str, Any]) -> None:
        self._where = where

    @cached_property
    def _indexes(self) -> range:
        if is_mapped(**self._where):
            return range(count_task_instances(**self._where))
        return range(-1, 0)

    def __len__(self) -> int:
        return len(self._indexes)

    def at(self, index: int) -> Any:
        return XCom.get_one(key="return_value", map_index=self._indexes[index], **self._where)
