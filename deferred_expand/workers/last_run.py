"""Streams that go on from run to run of their DAG."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.runs import runs_before
from deferred_expand.airflow_internals.sdk import AirflowFailException
from deferred_expand.committing.store import StreamStore
from deferred_expand.streams.page import START

if TYPE_CHECKING:
    from deferred_expand.definition import StreamDefinition
    from deferred_expand.streams.page import Position

log = logging.getLogger(__name__)

LAST_RUNS = 1000  # that are asked for a stream, of which most may have been skipped before they opened one


def position_after_last_run(definition: StreamDefinition, context: Any) -> Position:
    """
    Where the stream of the last run that had one has come to; that run gives nothing more.

    Items of a window that was left open belong to the next run. A run that was deleted never was: what it
    had been given is given again.

    :raises AirflowFailException: the run has no logical date, so that none is before it.
    """
    run = context["dag_run"]
    if run.logical_date is None:
        raise AirflowFailException(
            f"{definition.where}: run {run.run_id!r} has no logical date, so that it is not known which one "
            "it goes on after. Trigger it with a logical date, or leave it to the schedule"
        )
    for before in islice(runs_before(definition.dag_id, run.logical_date), LAST_RUNS):
        store = StreamStore(definition.ref(before.run_id))
        found = store.read_log()
        if found is None:
            continue
        if not found.ended:  # it failed; who clears it shall not go on beside this run
            store.write_log(replace(found, ended=True, failure=None, failed_try=None))
        log.info("The stream goes on after run %r: %s", before.run_id, found.describe())
        return found.position.of_open_window
    return START
