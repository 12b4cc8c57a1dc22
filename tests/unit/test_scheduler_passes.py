"""When a stream that has grown may end."""

from __future__ import annotations

from datetime import datetime, timezone

from deferred_expand.plugin.passes import SchedulerPasses

FIRST, SECOND, THIRD = (datetime(2026, 1, day, tzinfo=timezone.utc) for day in (1, 2, 3))


def test_it_is_over_when_the_run_was_looked_at_after_the_growth() -> None:
    passes = SchedulerPasses()
    passes.note_growth("head")
    assert not passes.is_over("head", FIRST), "this one may have been committed before the stream grew"
    assert not passes.is_over("head", FIRST)
    assert passes.is_over("head", SECOND)
    assert passes.is_over("head", THIRD)


def test_each_growth_waits_for_a_pass_of_its_own() -> None:
    passes = SchedulerPasses()
    passes.is_over("head", FIRST)
    assert passes.is_over("head", SECOND)
    passes.note_growth("head")
    assert not passes.is_over("head", SECOND)
    assert passes.is_over("head", THIRD)


def test_a_head_taken_over_from_another_triggerer_may_have_just_grown() -> None:
    assert not SchedulerPasses().is_over("head", THIRD)


def test_a_cleared_run_has_not_been_looked_at() -> None:
    passes = SchedulerPasses()
    passes.is_over("head", FIRST)
    assert not passes.is_over("head", None)
    assert passes.is_over("head", SECOND)


def test_heads_that_are_gone_are_forgotten() -> None:
    passes = SchedulerPasses()
    passes.is_over("gone", FIRST)
    passes.is_over("open", FIRST)
    passes.forget_all_but({"open"})
    assert passes.is_over("open", SECOND)
    assert not passes.is_over("gone", SECOND)
