"""Beside a task group: when the unmapped task and the head are done, and what workers do of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from deferred_expand import DeferredExpandOperator
from deferred_expand.airflow_internals.sdk import TaskSkippedEvent, TaskSuccessEvent
from deferred_expand.committing.board import CommitBoard, install_board
from deferred_expand.committing.store import StreamStore
from deferred_expand.definition import ExpandedGroup
from deferred_expand.exceptions import MapLengthExceeded, SourceFailed, StreamError
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import BatchEvent, Failure
from deferred_expand.streams.page import START
from deferred_expand.triggers.counts import count_failed, count_finished, count_tried
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.growing import grows, is_done
from deferred_expand.triggers.session import StreamSession
from deferred_expand.workers.group_head import GroupHeadOperator
from deferred_expand.workers.opener import StreamOpener
from tests.e2e import sources
from tests.memory_airflow import RUN_ID, MemoryAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.definition import StreamDefinition

GROUP = ExpandedGroup("group", "users.stream", ("group.one", "group.two"), ("group.one", "group.two"))


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    made = MemoryAirflow()
    made.install(monkeypatch)
    return made


@pytest.fixture
def expander() -> Iterator[CommitBoard]:
    board = CommitBoard(grows_groups=True)
    install_board(board)
    yield board
    install_board(None)


def define(**changes: Any) -> StreamDefinition:
    with DAG("dag", schedule=None):
        users = DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 1})
        return replace(users.definition, mapped_task_id="group.two", group=GROUP, **changes)


@pytest.fixture
def definition() -> StreamDefinition:
    return define()


def make_head(**changes: Any) -> GroupHeadOperator:
    definition = define(**changes)
    with DAG("dag", schedule=None):
        DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 1})
        return GroupHeadOperator(task_id="users.stream", definition=definition, source_kwargs={"count": 1})


OPENER = {"for_head": False}
HEAD = {"for_head": True}


@pytest.mark.usefixtures("expander")
@pytest.mark.parametrize(
    ("who", "log", "done"),
    [
        (OPENER, {}, False),
        (OPENER, {"items": 5}, False),
        (OPENER, {"items": 5, "grown": 2}, True),
        ({**OPENER, "until": 4}, {"items": 5, "grown": 3}, False),
        ({**OPENER, "until": 4}, {"items": 5, "grown": 4}, True),
        ({**OPENER, "until": 9}, {"items": 5, "grown": 5, "ended": True}, True),
        ({**OPENER, "until": 9}, {"items": 5, "grown": 4, "ended": True}, False),
        (OPENER, {"items": 5, "ended": True}, False),
        (OPENER, {"ended": True}, True),
        (HEAD, {"items": 5, "grown": 5}, False),
        (HEAD, {"items": 5, "grown": 4, "ended": True}, False),
        (HEAD, {"items": 5, "grown": 5, "ended": True}, True),
        (HEAD, {"grown": 0, "ended": True}, True),
    ],
)
def test_who_waits_is_done(who: dict[str, Any], log: dict[str, Any], done: bool) -> None:
    expansion = Expansion(define(), RUN_ID, "s", **who)
    assert is_done(expansion, CommitLog("s", **log)) is done


@pytest.mark.parametrize(
    ("locks_runs", "changes", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (None, {}, False),
        (True, {"materialize": "callback"}, False),
        (True, {"hops_on_worker": True}, False),
    ],
)
def test_it_grows_where_an_expander_can_lock_runs(
    locks_runs: bool | None, changes: dict[str, Any], expected: bool
) -> None:
    install_board(None if locks_runs is None else CommitBoard(grows_groups=locks_runs))
    try:
        expansion = Expansion(define(**changes), RUN_ID, "s", for_head=False)
        assert grows(expansion, CommitLog("s")) is expected
        assert is_done(expansion, CommitLog("s", items=3, ended=True)) is not expected
        assert grows(expansion, CommitLog("s", items=3, grown=1)), "there is no way back"
    finally:
        install_board(None)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("who", "log", "ends_as"),
    [
        (OPENER, {"items": 5, "grown": 3}, TaskSuccessEvent),
        (OPENER, {"ended": True}, BatchEvent),  # a worker pushes the length
        ({**OPENER, "until": 9}, {"items": 5, "grown": 5, "ended": True}, BatchEvent),
        (HEAD, {"items": 5, "grown": 5, "ended": True}, TaskSuccessEvent),
        (HEAD, {"grown": 0, "ended": True}, TaskSkippedEvent),
    ],
)
async def test_how_it_ends(
    airflow: MemoryAirflow,
    definition: StreamDefinition,
    who: dict[str, Any],
    log: dict[str, Any],
    ends_as: type,
) -> None:
    expansion = Expansion(definition, RUN_ID, "s", **who)
    StreamStore(expansion.ref).write_log(CommitLog("s", **log))
    not_to_be_opened: Any = None
    assert type(await StreamSession(expansion, not_to_be_opened).walk_on(1)) is ends_as


def opener(airflow: MemoryAirflow, log: CommitLog, **changes: Any) -> StreamOpener:
    definition = define(**changes)
    with DAG("dag", schedule=None):
        task = DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 1})
    StreamStore(definition.ref(RUN_ID)).write_log(log)
    return StreamOpener(task, definition, {}, airflow.context())


def test_the_unmapped_task_pushes_the_length_of_what_was_not_grown(airflow: MemoryAirflow) -> None:
    done = opener(airflow, CommitLog("s", batches=1, items=3, writer="w"))
    assert len(done.commit(BatchEvent("s", "w", 1, (2,), START, ended=True).to_json(), until=0)) == 5
    airflow.tables.instances["users", -1] = "success"
    make_head().execute(airflow.context())  # and the head has nothing to wait for


@pytest.mark.parametrize("log", [CommitLog("s"), CommitLog("s", items=3, ended=True)])
def test_a_head_whose_unmapped_task_was_marked_as_done_too_early_says_so(
    airflow: MemoryAirflow, log: CommitLog
) -> None:
    airflow.tables.instances["users", -1] = "success"
    StreamStore(define().ref(RUN_ID)).write_log(log)
    with pytest.raises(StreamError, match=r"'group' of DAG 'dag', run .* Clear 'users' with"):
        make_head().execute(airflow.context())


def test_the_unmapped_task_ends_with_what_has_grown_though_the_source_has_failed(
    airflow: MemoryAirflow,
) -> None:
    failure = Failure("broke", "Traceback")
    grown = opener(airflow, CommitLog("s", batches=1, items=3, writer="w", grown=2))
    event = BatchEvent("s", "w", 1, (), START, failure=failure)
    assert len(grown.commit(event.to_json(), until=0)) == 2
    nothing = opener(airflow, CommitLog("s"))
    with pytest.raises(SourceFailed, match="broke"):
        nothing.commit(BatchEvent("s", "w", 0, (), START, failure=failure).to_json(), until=0)


def test_what_an_earlier_run_has_left_over_forgets_its_results_in_all_tasks(airflow: MemoryAirflow) -> None:
    log = CommitLog("s", batches=1, items=2, writer="w")
    done = opener(airflow, log)
    for task_id in GROUP.task_ids:
        for index in range(4):
            airflow.tables.write_xcom((task_id, index, "return_value"), "1")
    done.commit(BatchEvent("s", "w", 1, (), START, ended=True).to_json(), until=4)
    left = {place[:2] for place in airflow.tables.xcoms if place[2] == "return_value"}
    assert left == {(task_id, index) for task_id in GROUP.task_ids for index in range(2)}


@pytest.mark.parametrize("who", ["opener", "head"])
def test_more_than_airflow_allows_is_refused_before_it_is_committed(
    airflow: MemoryAirflow, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "4")
    log = CommitLog("s", batches=1, items=3, writer="w", grown=3 if who == "head" else None)
    done: Any = opener(airflow, log)
    event = BatchEvent("s", "w", 1, (2,), START).to_json()
    if who == "head":
        done = make_head()
    with pytest.raises(MapLengthExceeded, match="group 'group' .* 3 item.* would have 5.*max_map_length"):
        done.commit(*([event, 0] if who == "opener" else [airflow.context(), event]))
    assert StreamStore(define().ref(RUN_ID)).read_log() == log


def test_the_head_waits_until_all_has_grown(airflow: MemoryAirflow) -> None:
    head = make_head()
    airflow.tables.instances["users", -1] = "success"
    store = StreamStore(define().ref(RUN_ID))
    for log in (CommitLog("s", items=3, grown=3), CommitLog("s", items=3, grown=2, ended=True)):
        store.write_log(log)
        with pytest.raises(TaskDeferred):
            head.execute(airflow.context())
    store.write_log(CommitLog("s", items=3, grown=3, ended=True))
    head.execute(airflow.context())
    store.write_log(CommitLog("s", ended=True, grown=0))
    with pytest.raises(AirflowSkipException):
        head.execute(airflow.context())


def test_an_item_is_finished_when_all_leaves_are_and_has_failed_when_one_has(airflow: MemoryAirflow) -> None:
    one = {0: "success", 1: "failed", 2: "success", 3: "running"}
    two = {0: "success", 1: "upstream_failed", 2: None, 3: "failed"}
    airflow.tables.instances = {
        (f"group.{name}", index): state
        for name, states in (("one", one), ("two", two))
        for index, state in states.items()
    }
    assert count_finished(define(), RUN_ID) == 3
    assert count_failed(define(), RUN_ID) == 2


@pytest.mark.parametrize(("in_group", "tried"), [(True, 3), (False, 2)])
def test_a_share_that_may_fail_is_one_of_what_was_tried(
    airflow: MemoryAirflow, in_group: bool, tried: int
) -> None:
    """What a shorter stream had left over would let more of it fail."""
    states = ("success", "failed", "upstream_failed", "removed", "running")
    airflow.tables.instances = {
        (task_id, index): state for task_id in GROUP.task_ids for index, state in enumerate(states)
    }
    definition = define() if in_group else replace(define(), group=None)
    assert count_tried(definition, RUN_ID) == tried
