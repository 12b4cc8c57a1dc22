"""When a stream's items were committed, and when they were finished, as the metadata database has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import Integer, case, cast, extract, func, select

from deferred_expand.airflow_internals.overview import item_instances

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from deferred_expand.airflow_internals.overview import StreamFound
    from deferred_expand.streams.commit_log import CommitLog

BUCKETS = 100  # points of the line of what is finished

Point: TypeAlias = "tuple[float, int]"
"""Seconds since the epoch, and items by then."""


@dataclass(frozen=True)
class TimesOfItems:
    """
    How many items there were when, in seconds since the epoch: a rising number.

    :param committed: as their batches were staged.
    :param finished: their instances.
    """

    committed: list[Point]
    finished: list[Point]


def times_of_items(
    session: Session,
    stream: StreamFound,
    log: CommitLog,
    names: tuple[str, str],
    until: float | None = None,
    *,
    finished: bool = True,
) -> TimesOfItems:
    """
    Of no batch the items are read, and of a hundred thousand instances a hundred numbers.

    :param names: what the keys of batches begin with, and those of the index pages that name these.
    :param until: now, while items are not finished; otherwise it is looked up when the last one was.
    """
    where = {"dag_id": stream.dag_id, "run_id": stream.run_id, "task_id": stream.task_id, "map_index": -1}
    times, pages = dict[str, float](), list[Any]()
    of_batches = select(XComModel.key, XComModel.timestamp).filter_by(**where)
    for key, at in session.execute(of_batches.where(XComModel.key.startswith(names[0], autoescape=True))):
        times[key] = at.timestamp()
    of_pages = select(XComModel.value).filter_by(**where)
    pages += session.scalars(of_pages.where(XComModel.key.startswith(names[1], autoescape=True)))
    entries = sorted(tuple(entry) for page in [*pages, *log.index[:1]] for entry in page)
    last = [first - 1 for first, _ in entries[1:]] + [log.items]
    at_batches = [(times.get(names[0] + name), end) for (_, name), end in zip(entries, last, strict=False)]
    committed = [(at, end) for at, end in at_batches if at is not None]
    ends = _finished(session, stream, committed[0][0], until) if committed and finished else []
    return TimesOfItems(committed, ends)


def _finished(session: Session, stream: StreamFound, since: float, until: float | None) -> list[Point]:
    at = extract("epoch", TaskInstance.end_date)
    done = (*item_instances(stream), TaskInstance.end_date.is_not(None))
    last = until or session.scalar(select(func.max(at)).where(*done))
    if last is None:
        return []
    width = max(1.0, (float(last) - since) / BUCKETS)
    number = cast((at - since) / width, Integer)
    bucket = case((number > BUCKETS, BUCKETS), else_=number).label("bucket")  # clocks differ
    points, items = [], 0
    for number_of, count in session.execute(
        select(bucket, func.count()).where(*done).group_by(bucket).order_by(bucket)
    ):
        items += count
        points.append((since + (number_of + 1) * width, items))
    return points
