"""Instances of a task group that grows, on Postgres, beside Airflow's own scheduler code."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models import taskinstance
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from sqlalchemy import select, text, update

from deferred_expand.airflow_internals.groups import locked_run
from deferred_expand.airflow_internals.metadata import dag_cache
from deferred_expand.committing.board import CommitBoard
from deferred_expand.committing.store import ANNOUNCEMENT_KEY, LOG_KEY
from deferred_expand.plugin import groups
from deferred_expand.plugin.groups import GroupGrower, Patience, Slice
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import Announcement, BatchEvent
from deferred_expand.testing.local_airflow import wait_until
from tests.metadata_database import (
    GROUP_TASKS,
    RUN_ID,
    TRIGGERER,
    USERS,
    OpenGroup,
    metadata_database,
    write_xcom,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", autouse=True)
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with metadata_database("postgresql", tmp_path_factory.mktemp("database")):
        yield


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub("[^a-z0-9]+", "_", request.node.name)


@pytest.fixture
def grower() -> Iterator[GroupGrower]:
    made = GroupGrower(TRIGGERER, CommitBoard(grows_groups=True), dag_cache())
    yield made
    made.stop()


def grow_at_once(grower: GroupGrower, group: OpenGroup) -> str:
    """One slice, in this thread, if nobody else holds the run."""
    return grower._grow(group.head(), None)


def all_states(count: int, **special: Any) -> dict[str, dict[int, str | None]]:
    return {task: dict.fromkeys(range(count)) | special.get(task, {}) for task in GROUP_TASKS}


def test_all_of_its_tasks_get_their_instances_with_the_length(name: str, grower: GroupGrower) -> None:
    group = OpenGroup.begin(name, items=4)
    assert group.states() == {task: {-1: None} for task in GROUP_TASKS}
    assert grow_at_once(grower, group) == "grown"
    assert (group.states(), group.length(), group.log().grown) == (all_states(4), 4, 4)
    group.commit(7)
    assert grow_at_once(grower, group) == "grown"
    assert (group.states(), group.length(), group.log().grown) == (all_states(7), 7, 7)
    assert grow_at_once(grower, group) == "grown", "nothing is left to do"


def test_they_are_as_airflow_makes_them(name: str, grower: GroupGrower) -> None:
    ours, theirs = OpenGroup.begin(name, items=3, pool="default_pool", priority_weight=7), f"{name}_natively"
    grow_at_once(grower, ours)
    natively = OpenGroup.begin(theirs, pool="default_pool", priority_weight=7)
    with create_session() as session:
        session.add(TaskMap(theirs, USERS, RUN_ID, -1, 3, None))
        session.flush()
        dag = SerializedDagModel.get_dag(theirs, session=session)
        assert dag is not None
        for task in GROUP_TASKS:
            mapped: Any = dag.get_task(f"group.{task}")
            TaskMap.expand_mapped_task(mapped, RUN_ID, session=session)
    assert _columns(ours) == _columns(natively)


def _columns(group: OpenGroup) -> list[dict[str, Any]]:
    table = TaskInstance.__table__
    chosen = select(table).where(table.c.dag_id == group.dag_id, table.c.task_id.startswith("group."))
    own = {"id", "dag_id", "dag_version_id", "context_carrier", "updated_at"}
    with create_session() as session:
        rows = session.execute(chosen.order_by(table.c.task_id, table.c.map_index)).mappings()
        return [{key: value for key, value in row.items() if key not in own} for row in rows]


def test_it_grows_by_slices_which_double_at_most(name: str, grower: GroupGrower) -> None:
    group = OpenGroup.begin(name, items=500)
    sizes = []
    while True:
        before = group.log().grown or 0
        outcome = grow_at_once(grower, group)
        sizes.append((group.log().grown or 0) - before)
        assert group.states() == all_states(group.length() or 0)
        if outcome == "grown":
            break
    assert len(sizes) > 2
    assert sum(sizes) == 500
    assert all(after <= 2 * before for before, after in pairwise(sizes))


def test_the_slices_follow_the_time_that_they_take() -> None:
    size = Slice()
    size.note(100, 10.0)
    assert size.size == 5
    size.note(5, 0.0)
    assert size.size == 10
    size.note(0, 10.0)
    assert size.size == 10


def test_the_patience_is_twice_the_longest_pass_within_bounds() -> None:
    patience = Patience()
    seen = [patience.seconds]
    for waited in (0.5, 4.0, 2.0, 50.0):
        patience.note(waited)
        seen.append(patience.seconds)
    assert seen == [2.0, 2.0, 8.0, 8.0, 60.0]


def test_what_has_ended_unexpanded_is_left_alone_until_it_is_cleared(name: str, grower: GroupGrower) -> None:
    """Natively, too, what something outside has skipped is not expanded any more."""
    group = OpenGroup.begin(name, items=2)
    group.set_state("two", -1, "skipped")
    grow_at_once(grower, group)
    skipped = all_states(2) | {"two": {-1: "skipped"}}
    assert group.states() == skipped
    group.set_state("two", -1, None)
    group.commit(3)
    grow_at_once(grower, group)
    assert group.states() == all_states(3)


def test_what_a_shorter_stream_had_left_over_comes_back(name: str, grower: GroupGrower) -> None:
    group = OpenGroup.begin(name, items=4)
    grow_at_once(grower, group)
    group.set_state("three", 3, "removed")
    group.set_state("one", 0, "success")
    group.commit(5)
    grow_at_once(grower, group)
    assert group.states() == all_states(5, one={0: "success"})


@pytest.fixture
def racing(name: str, grower: GroupGrower) -> OpenGroup:
    """Of ten one[4] is done, the others run; ten more are committed."""
    group = OpenGroup.begin(name, items=10)
    grow_at_once(grower, group)
    for index in range(10):
        group.set_state("one", index, "success" if index == 4 else "running")
    group.commit(20)
    return group


def ready_while(group: OpenGroup, happens: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """
    What a pass of the scheduler lets start, while something else happens in the middle of it.

    It reads the group's length twice for each instance, and looks at another index by the quotient
    (airflow/ti_deps/deps/trigger_rule_dep.py).
    """
    relevant = taskinstance._get_relevant_map_indexes
    once: list[bool] = []

    def between(**given: Any) -> Any:
        if (given["task"].task_id, given["map_index"]) == ("group.two", 2) and not once:
            once.append(True)
            happens()
        return relevant(**given)

    monkeypatch.setattr(taskinstance, "_get_relevant_map_indexes", between)
    with create_session(scoped=False) as session:
        runs = DagRun.get_running_dag_runs_to_examine(session=session)
        (run,) = [run for run in runs if run.dag_id == group.dag_id]
        run.dag = SerializedDagModel.get_dag(group.dag_id, session=session)
        ready, _ = run.update_state(session=session, execute_callbacks=False)
        found = {(ti.task_id, ti.map_index) for ti in ready}
    assert once
    return found


def test_it_does_not_grow_in_the_middle_of_a_pass(
    racing: OpenGroup, grower: GroupGrower, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[str] = []
    ready = ready_while(racing, lambda: outcomes.append(grow_at_once(grower, racing)), monkeypatch)
    assert ready == {("group.two", 4)}
    assert (outcomes, racing.length()) == (["locked"], 10)
    assert grow_at_once(grower, racing) == "grown"
    assert racing.length() == 20


def test_what_that_would_do(racing: OpenGroup, grower: GroupGrower, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the lock is what keeps two[2] from starting, whose one[2] runs."""

    @contextmanager
    def unlocked(head: Any, wait: Any) -> Iterator[Any]:
        with create_session(scoped=False) as session:
            yield session

    monkeypatch.setattr(groups, "locked_run", unlocked)
    ready = ready_while(racing, lambda: grow_at_once(grower, racing), monkeypatch)
    assert ("group.two", 2) in ready


def test_the_scheduler_leaves_a_run_out_that_grows(name: str) -> None:
    group = OpenGroup.begin(name, items=3)
    with locked_run(group.head(), None) as session:
        assert session is not None
        with create_session() as other:
            assert group.dag_id not in {
                run.dag_id for run in DagRun.get_running_dag_runs_to_examine(session=other)
            }


def test_a_run_that_is_held_is_waited_for_and_holds_no_other_up(name: str, grower: GroupGrower) -> None:
    held, free = OpenGroup.begin(f"{name}_held", items=2), OpenGroup.begin(f"{name}_free", items=2)
    with create_session(scoped=False) as session:
        session.scalar(select(DagRun.id).where(DagRun.dag_id == held.dag_id).with_for_update())
        grower.look([held.head(), free.head()])
        wait_until("the other one has grown", lambda: free.log().grown == 2, 20)
        wait_until("it stands in line", _someone_waits_for_a_lock, 20)
        assert held.log().grown is None
    wait_until("it has grown", lambda: held.log().grown == 2, 20)
    assert held.states() == all_states(2)


def _someone_waits_for_a_lock() -> bool:
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with create_session() as session:
        return bool(session.scalar(text(waiting)))


def test_what_is_announced_while_it_grows_is_not_forgotten(
    name: str, grower: GroupGrower, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = OpenGroup.begin(name, items=2)
    grow, monkeypatched = grower._grow, monkeypatch.setattr
    monkeypatched(grower, "_wake", lambda: None)

    def grow_while_more_comes(head: Any, wait: Any) -> Any:
        outcome = grow(head, wait)
        group.commit(5)
        group.announce()
        grower.look([group.head()])
        monkeypatched(grower, "_grow", grow)
        return outcome

    monkeypatched(grower, "_grow", grow_while_more_comes)
    grower.look([group.head()])
    grower._take_turns()
    assert group.log().grown == 2
    grower._take_turns()
    assert group.log().grown == 5


def test_who_was_taken_over_from_makes_nothing(name: str, grower: GroupGrower) -> None:
    group = OpenGroup.begin(name, items=2)
    head = group.head()
    with create_session() as session:
        session.execute(update(Trigger).where(Trigger.id == head.trigger_id).values(triggerer_id=2))
    assert grower._grow(head, None) == "later"
    assert group.states() == {task: {-1: None} for task in GROUP_TASKS}


def test_what_is_of_an_earlier_opening_makes_nothing(name: str, grower: GroupGrower) -> None:
    group = OpenGroup.begin(name, items=2)
    with create_session() as session:
        write_xcom(session, group.run(session), LOG_KEY, USERS, -1, CommitLog("another", items=2).to_json())
    assert grow_at_once(grower, group) == "grown"
    assert group.states() == {task: {-1: None} for task in GROUP_TASKS}


def test_a_group_that_is_gone_is_named_once_with_the_remedy(
    name: str, grower: GroupGrower, caplog: pytest.LogCaptureFixture
) -> None:
    group = OpenGroup.begin(name, items=2)
    announcement = Announcement("board", USERS, 0.0, BatchEvent.empty("stream"), "other").to_json()
    with create_session() as session:
        write_xcom(session, group.run(session), ANNOUNCEMENT_KEY, "users.stream", -1, announcement)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            grower._serve(group.head(), None)
    (record,) = caplog.records
    assert "task group 'other'" in record.getMessage()
    assert "is gone from the DAG" in record.getMessage()
