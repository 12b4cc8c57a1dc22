"""Committing what a stream's trigger has announced, in one transaction."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deferred_expand import settings
from deferred_expand.committing.store import ANNOUNCEMENT_KEY, LOG_KEY, index_key
from deferred_expand.exceptions import MapLengthExceeded
from deferred_expand.streams.commit_index import page_to_json
from deferred_expand.streams.commit_log import CommitLog, note_refused, plan_commit
from deferred_expand.streams.events import Announcement

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.groups import GroupRecords
    from deferred_expand.airflow_internals.heads import Head
    from deferred_expand.airflow_internals.metadata import DagRun, StreamRecords
    from deferred_expand.streams.commit_log import Commit


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Committed:
    """What a transaction did: from one state of the commit log to the next."""

    before: CommitLog
    after: CommitLog
    announcement: Announcement
    context_carrier: dict[str, Any] | None

    @property
    def grew(self) -> bool:
        """The mapped task has new instances."""
        return self.after.items > self.before.items

    @property
    def holds_back_the_end(self) -> bool:
        return self.announcement.event.ended and not self.after.ended


def commit_announced(
    records: StreamRecords, run: DagRun, head: Head, expander: str, *, may_end: bool
) -> Committed | None:
    """
    Carry out the plan for what is announced: commit log, mapped length and task instances.

    :param records: of the stream, locked.
    :param expander: who asks; announcements to others are left alone.
    :param may_end: the stream may end, if it does not grow; see :class:`SchedulerPasses`.
    :return: ``None`` when there is nothing to commit.
    :raises MapLengthExceeded: nothing is committed then.
    """
    value = records.read(ANNOUNCEMENT_KEY, head.task_id, head.map_index)
    announcement = Announcement.from_json(value) if value else None
    if announcement is None or announcement.expander != expander:
        return None
    log = _read_log(records, announcement)
    plan = plan_commit(log, announcement.event, head.try_number) if log else None
    if log is None or plan is None:
        _note_refused(records, run, announcement, log)
        return None
    if plan.log.ended and head.map_index == 0 and not (may_end and plan.log.items == log.items):
        plan = plan_commit(log, replace(announcement.event, ended=False), head.try_number)
    if plan is not None:
        if announcement.group_id is not None:
            _require_room(plan.log.items)
        _write(records, run, announcement.task_id, plan)
        if head.map_index == 0:
            _make_instances(records, run, announcement.task_id, log.items, plan.log)
    return Committed(log, plan.log if plan else log, announcement, run.context_carrier)


def _note_refused(
    records: StreamRecords, run: DagRun, announcement: Announcement, log: CommitLog | None
) -> None:
    """So that what was staged can be deleted at the end."""
    noted = note_refused(log, announcement.event) if log else None
    if noted is not None:
        records.write(run, LOG_KEY, announcement.task_id, noted.to_json())


def _make_instances(records: StreamRecords, run: DagRun, task_id: str, before: int, log: CommitLog) -> None:
    length = 1 + log.items
    _require_room(length)
    records.grow(task_id, length)
    records.create_instances(run, before + 1, log.items)
    records.label_head(describe(log, None if log.ended else records.missing_place()))


def _require_room(length: int) -> None:
    if length > settings.max_map_length():
        raise MapLengthExceeded(f"{length} instances are more than [core] max_map_length allows")


def describe(log: CommitLog, missing: str | None) -> str:
    """For the head's label."""
    return f"{log.label}; no item can run: {missing}" if missing else log.label


def label_anew(records: StreamRecords, head: Head, missing: str | None) -> bool:
    """Say on the head's label what its items miss; :return: whether its stream is open."""
    value = records.read(ANNOUNCEMENT_KEY, head.task_id, 0)
    log = _read_log(records, Announcement.from_json(value)) if value else None
    if log is None or log.ended:
        return False
    records.label_head(describe(log, missing))
    return True


def restore_removed(records: StreamRecords, run: DagRun, head: Head) -> int:
    """
    Bring back items of a stream that are REMOVED although they are committed.

    :return: how many.
    """
    value = records.read(ANNOUNCEMENT_KEY, head.task_id, 0)
    announcement = Announcement.from_json(value) if value else None
    log = _read_log(records, announcement) if announcement else None
    if log is None or announcement is None:
        return 0
    records.grow(announcement.task_id, 1 + log.items)  # or they would soon be REMOVED again
    return records.restore_removed(run, log.items)


def fail_if_left_open(records: StreamRecords, head: Head) -> CommitLog | None:
    """
    Fail a head that Airflow has skipped although its stream is open.

    It skips what is unfinished when a run fails fast or takes too long (airflow/models/taskinstance.py,
    ``_stop_remaining_tasks``; models/dagrun.py, ``update_state``). Whoever clears what has failed would
    let a skipped one be, and the run end well without the items that are missing.

    :return: the log of the stream; ``None``: there was nothing to do.
    """
    value = records.read(ANNOUNCEMENT_KEY, head.task_id, head.map_index)
    log = _read_log(records, Announcement.from_json(value)) if value else None
    if log is None or log.ended or log.failure is not None:
        return None
    label = f"{log.describe()}; Airflow skipped it (fail_fast or a time-out): clear it to go on"
    return log if records.fail_skipped_head(label) else None


def grow_announced(records: GroupRecords, run: DagRun, head: Head, size: int) -> CommitLog | None:
    """
    Make a task group grow by what is committed and has no instances.

    :param records: of the stream, locked, within a locked run.
    :param size: task instances to make at most, about.
    :return: the log after that; ``None``: the stream that was announced is no more.
    :raises StreamError: the group is gone.
    """
    value = records.read(ANNOUNCEMENT_KEY, head.task_id, head.map_index)
    announcement = Announcement.from_json(value) if value else None
    log = _read_log(records, announcement) if announcement else None
    if announcement is None or log is None or log.stream != announcement.event.stream:
        return None
    group_id = announcement.group_id
    if group_id is None or not log.is_behind:
        return log
    first = log.grown or 0
    last = min(log.items, first + max(1, size // records.tasks_in(run, group_id)))
    records.grow_group(run, announcement.task_id, group_id, first, last)
    grown = replace(log, grown=last)
    records.write(run, LOG_KEY, announcement.task_id, grown.to_json())
    records.label_head(grown.label)
    return grown


def _read_log(records: StreamRecords, announcement: Announcement) -> CommitLog | None:
    value = records.read(LOG_KEY, announcement.task_id, -1)
    return CommitLog.from_json(value) if value else None


def _write(records: StreamRecords, run: DagRun, task_id: str, plan: Commit) -> None:
    for name, page in plan.pages.items():
        records.write(run, index_key(name), task_id, page_to_json(page))
    records.write(run, LOG_KEY, task_id, plan.log.to_json())
