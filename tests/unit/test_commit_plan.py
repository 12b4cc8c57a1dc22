"""What an event may commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import BatchEvent, Failure
from deferred_expand.streams.page import Position

LOG = CommitLog("s", batches=2, items=5, position=Position("c"), index=(((1, "0.w"), (3, "1.w")),))


def event(first: int = 2, counts: tuple[int, ...] = (3,), **fields: object) -> BatchEvent:
    given: dict[str, object] = {"stream": "s", "writer": "w", "position": Position("d"), **fields}
    return BatchEvent(first=first, counts=counts, **given)  # type: ignore[arg-type]


def test_the_successor_of_the_last_batch_is_committed() -> None:
    plan = plan_commit(LOG, event(), try_number=1)
    assert plan is not None
    assert (plan.log.batches, plan.log.items, plan.log.position) == (3, 8, Position("d"))


def test_a_batch_that_is_committed_already_is_not_committed_again() -> None:
    assert plan_commit(LOG, event(first=1), try_number=1) is None


def test_a_batch_with_a_gap_before_it_is_not_committed() -> None:
    assert plan_commit(LOG, event(first=3), try_number=1) is None


@pytest.mark.parametrize("end", [{"ended": True}, {"failure": Failure("broke", "")}])
def test_an_end_that_is_behind_or_beyond_what_is_committed_counts_for_nothing(end: dict[str, object]) -> None:
    mine = replace(LOG, writer="w")
    stale: list[tuple[int, tuple[int, ...]]] = [(0, (2,)), (0, ()), (3, ()), (3, (1,))]
    fresh: list[tuple[int, tuple[int, ...]]] = [(0, (2, 3)), (2, ()), (1, (3, 1))]
    for first, counts in stale:
        assert plan_commit(mine, event(first, counts, **end), try_number=1) is None
    for first, counts in fresh:
        assert plan_commit(mine, event(first, counts, **end), try_number=1) is not None


def test_a_loser_of_a_takeover_commits_nothing() -> None:
    winner = plan_commit(LOG, event(writer="winner"), try_number=1)
    assert winner is not None
    assert plan_commit(winner.log, event(writer="loser"), try_number=1) is None


def test_an_event_of_an_earlier_opening_commits_nothing() -> None:
    assert plan_commit(LOG, event(stream="an earlier one"), try_number=1) is None


def test_nothing_follows_the_end() -> None:
    ended = plan_commit(LOG, event(ended=True), try_number=1)
    assert ended is not None
    assert plan_commit(ended.log, event(first=3), try_number=1) is None


def test_a_failure_is_noted_with_its_try() -> None:
    plan = plan_commit(LOG, event(failure=Failure("broke", "")), try_number=3)
    assert plan is not None
    assert plan.log.failed_try == 3


def test_what_another_walk_has_committed_does_not_count_as_an_events_own() -> None:
    mine = replace(LOG, writer="w")
    assert plan_commit(mine, event(1, (2, 3), writer="another walk"), try_number=1) is None
    assert plan_commit(mine, event(1, (2, 3)), try_number=1) is not None


def test_an_end_without_batches_leaves_the_writer_of_the_last_one() -> None:
    plan = plan_commit(replace(LOG, writer="w"), event(2, (), writer="another walk", ended=True), 1)
    assert plan is not None
    assert (plan.log.ended, plan.log.writer, plan.log.left) == (True, "w", ())
