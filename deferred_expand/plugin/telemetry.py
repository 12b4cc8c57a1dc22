"""Metrics and spans, through what Airflow is set up to send them to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deferred_expand.airflow_internals.metadata import Stats

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.heads import Head
    from deferred_expand.plugin.commit import Committed


def report_commit(head: Head, committed: Committed, seconds: float) -> None:
    """
    Count what was committed, and say how long it took.

    - ``deferred_expand.batch.committed``, ``deferred_expand.item.committed``: counters
    - ``deferred_expand.batch.lag``: milliseconds from the announcement to the commit
    - ``deferred_expand.commit.duration``: milliseconds of the transaction
    - a span ``deferred_expand.batch`` for each batch, from its announcement to its commit
    """
    tags = {"dag_id": head.dag_id, "task_id": head.task_id}
    batches = committed.after.batches - committed.before.batches
    Stats.incr("deferred_expand.batch.committed", batches, tags=tags)
    Stats.incr("deferred_expand.item.committed", committed.after.items - committed.before.items, tags=tags)
    lag = max(0.0, time.time() - committed.announcement.at)
    Stats.timing("deferred_expand.batch.lag", lag * 1000, tags=tags)
    Stats.timing("deferred_expand.commit.duration", seconds * 1000, tags=tags)
    _report_spans(head, committed)


def report_growth(head: Head, made: int, seconds: float) -> None:
    """
    Count the task instances that were made of a task group, and say how long its run was locked for that.

    - ``deferred_expand.group.instances``: a counter
    - ``deferred_expand.group.locked``: milliseconds
    """
    tags = {"dag_id": head.dag_id, "task_id": head.task_id}
    Stats.incr("deferred_expand.group.instances", made, tags=tags)
    Stats.timing("deferred_expand.group.locked", seconds * 1000, tags=tags)


def report_pending(items: int) -> None:
    """``deferred_expand.item.pending``: a gauge of what is staged here and not yet committed."""
    Stats.gauge("deferred_expand.item.pending", items)


def _report_spans(head: Head, committed: Committed) -> None:
    context = TraceContextTextMapPropagator().extract(committed.context_carrier or {})
    tracer = trace.get_tracer("deferred_expand")
    counts = committed.announcement.event.counts
    first = committed.announcement.event.first
    for number in range(committed.before.batches, committed.after.batches):
        span = tracer.start_span(
            "deferred_expand.batch",
            context=context,
            start_time=int(committed.announcement.at * 1e9),
            attributes={
                "airflow.dag_id": head.dag_id,
                "airflow.dag_run.run_id": head.run_id,
                "airflow.task_id": head.task_id,
                "deferred_expand.batch": number,
                "deferred_expand.items": counts[number - first],
            },
        )
        span.end()
