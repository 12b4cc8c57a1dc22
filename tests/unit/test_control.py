"""What a person changes of a stream while it is walked: pause, limits, how many may fail."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.sdk.bases.xcom import BaseXCom
from airflow.utils.session import create_session
from sqlalchemy import delete, update

from deferred_expand.committing.board import CommitBoard, control_on_board, install_board
from deferred_expand.committing.store import CONTROL_KEY, StreamStore
from deferred_expand.exceptions import TooManyItemsFailed
from deferred_expand.plugin.controls import ControlWatch
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.control import Control
from deferred_expand.streams.events import BatchEvent
from deferred_expand.streams.units import BATCH, Unit
from deferred_expand.triggers import control as control_module
from deferred_expand.triggers.calls import call_in_thread
from deferred_expand.triggers.control import ControlReader
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.failing_fast import require_few_failed_items
from deferred_expand.triggers.session import StreamSession
from deferred_expand.triggers.walks import WalkOpener
from deferred_expand.walking.pace import Pace
from deferred_expand.workers.described import record_of
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.metadata_database import RUN_ID as METADATA_RUN_ID
from tests.metadata_database import USERS, OpenStream, write_xcom
from tests.unit.helpers import MemoryStager, PagedNumbers, make_walk, virtual_time
from tests.unit.test_head import make_stream
from tests.unit.test_pace import START, Instances, paced

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from deferred_expand.definition import StreamDefinition

BY_DAG = Control(max_pending=4, rate_limit=None, tolerate=2)


def test_what_a_person_leaves_out_stays_as_the_dag_says() -> None:
    assert BY_DAG.changed_by(None) == BY_DAG
    assert BY_DAG.changed_by({}) == BY_DAG
    assert BY_DAG.changed_by({"max_pending": None, "rate_limit": 0.5}) == replace(BY_DAG, rate_limit=0.5)
    changed = BY_DAG.changed_by({"paused": True, "tolerate": "5%"})
    assert changed == Control(paused=True, max_pending=4, tolerate="5%")
    assert changed.tolerance is not None
    assert changed.tolerance.percent == 5


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("pause", "must be like"),
        ([], "must be like"),
        (0, "must be like"),
        ({"pause": True}, "there is no 'pause'; there are paused, max_pending, rate_limit, tolerate"),
        ({1: 2, "a": 3}, "there is no 1"),
        ({"paused": "yes"}, "paused is 'yes'"),
        ({"paused": 1}, "paused is 1"),
        ({"max_pending": 0}, "max_pending is 0"),
        ({"max_pending": True}, "max_pending is True"),
        ({"max_pending": 2.5}, "max_pending is 2.5"),
        ({"max_pending": "5"}, "max_pending is '5'"),
        ({"rate_limit": 0}, "rate_limit is 0"),
        ({"rate_limit": -1}, "rate_limit is -1"),
        ({"rate_limit": True}, "rate_limit is True"),
        ({"rate_limit": float("nan")}, "rate_limit is nan"),
        ({"rate_limit": float("inf")}, "rate_limit is inf"),
        ({"tolerate": -1}, "tolerate is -1"),
        ({"tolerate": "many"}, "tolerate is 'many'"),
        ({"tolerate": [1]}, "tolerate is"),
    ],
)
def test_what_cannot_be_obeyed_is_named(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BY_DAG.changed_by(written)


@pytest.mark.parametrize(
    ("how", "uncounted"),
    [
        ({}, set()),
        ({"unit": BATCH}, {"max_pending"}),
        ({"unit": Unit("window", 5)}, set()),
        ({"mapped_task_id": None}, {"max_pending", "tolerate"}),
    ],
)
def test_what_counts_instances_is_refused_where_there_are_none(
    definition: StreamDefinition, how: dict[str, Any], uncounted: set[str]
) -> None:
    stream = replace(definition, max_pending=None, **how)
    for name, value in (("max_pending", 5), ("tolerate", 5), ("rate_limit", 5), ("paused", True)):
        if name in uncounted:
            with pytest.raises(ValueError, match=f"{name} counts instances of items"):
                stream.control.changed_by({name: value}, stream.uncounted)
        else:
            assert getattr(stream.control.changed_by({name: value}, stream.uncounted), name) == value
    assert record_of(stream, ("users", -1))["uncounted"] == list(stream.uncounted)


@pytest.mark.asyncio
@virtual_time
async def test_a_paused_walk_asks_for_nothing_and_stages_nothing_until_it_goes_on() -> None:
    numbers = PagedNumbers(pages=100, size=2, delay=1)
    async with paced(numbers, None, batch_size=4) as walk:
        await asyncio.sleep(10.5)
        walk.obey(Control(paused=True))
        await asyncio.sleep(2)  # the page that was asked for comes, and is kept
        given, staged = list(numbers.given), walk.items
        assert 9 <= len(given) <= 11
        await asyncio.sleep(1000)
        assert (numbers.given, walk.items) == (given, staged)
        assert walk.state.waits_for == "pause"
        walk.obey(Control())
        await asyncio.sleep(200)
        assert (await walk.batches()).ended
        assert walk.items == 200
        assert numbers.given == list(range(100)), "no page was asked for twice"


@pytest.mark.asyncio
@virtual_time
async def test_one_that_is_paused_from_the_start_does_not_open_its_source() -> None:
    numbers = PagedNumbers(pages=3, size=2)
    walk = make_walk(numbers, MemoryStager(), START, None)
    walk.obey(Control(paused=True))
    walk.start()
    await asyncio.sleep(100)
    assert (numbers.opened_at, walk.items) == ([], 0)
    walk.obey(Control())
    assert (await walk.all_batches()).ended
    assert walk.items == 6
    await walk.close()


@pytest.mark.asyncio
@virtual_time
async def test_a_window_whose_time_is_over_does_not_close_in_a_pause() -> None:
    numbers, window = PagedNumbers(pages=1, size=2), Unit("window", 100, every=5)
    async with paced(numbers, None, batch_size=4, unit=window) as walk:
        walk.obey(Control(paused=True))
        await asyncio.sleep(60)
        assert walk.items == 0
        walk.obey(Control())
        await asyncio.sleep(10)
        assert walk.items == 1


@pytest.mark.asyncio
@virtual_time
async def test_a_walk_can_be_closed_in_a_pause() -> None:
    numbers = PagedNumbers(pages=10, size=2, delay=1)
    walk = make_walk(numbers, MemoryStager(), START, None)
    walk.start()
    await asyncio.sleep(3)
    walk.obey(Control(paused=True))
    await asyncio.sleep(3)
    await walk.close()
    assert numbers.closed == 1


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("pace", ["none", "4", "20"])
async def test_more_or_fewer_may_be_pending_from_now_on(pace: str) -> None:
    instances, numbers = Instances(), PagedNumbers(pages=200, size=2)
    limit = None if pace == "none" else int(pace)
    async with paced(numbers, Pace(limit, None, instances.count), batch_size=2, walk_ahead=8) as walk:
        await asyncio.sleep(30)
        walk.obey(Control(max_pending=limit or 50))
        await asyncio.sleep(30)
        before = walk.items
        walk.obey(Control(max_pending=before + 10))
        await asyncio.sleep(0.5)
        assert walk.items == min(400, before + 10), "who waits for the old limit is woken"
        instances.finished = walk.items - 2
        walk.obey(Control(max_pending=3))
        await asyncio.sleep(30)
        assert walk.items <= max(before + 10, instances.finished + 3)
        instances.finished = walk.items
        await asyncio.sleep(30)
        assert walk.items == min(400, instances.finished + 3)
        walk.obey(Control())
        await asyncio.sleep(30)
        assert (await walk.batches()).ended
        assert walk.items == 400


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize(
    ("source", "pace", "waits_for"),
    [
        (PagedNumbers(pages=9, delay=1000), {}, "items"),
        (PagedNumbers(pages=9), {"max_pending": 4}, "max_pending"),
        (PagedNumbers(pages=9), {"max_pending": 3}, "max_pending"),
        (PagedNumbers(pages=9), {"rate_limit": 0.01}, "rate_limit"),
        (PagedNumbers(pages=9, delay=1000), {"rate_limit": 100, "max_pending": 50}, "items"),
        (PagedNumbers(pages=9, breaks={1: 1}), {}, "retry"),
    ],
)
async def test_it_tells_what_it_waits_for(source: PagedNumbers, pace: dict[str, Any], waits_for: str) -> None:
    async with paced(source, Pace(**pace, finished=Instances().count), source_retries=1) as walk:
        await asyncio.sleep(0.9)
        assert walk.state.waits_for == waits_for
        since = walk.state.since
        walk.obey(Control(paused=True))
        assert walk.state.waits_for == "pause"
        assert walk.state.since >= since


@pytest.mark.asyncio
@virtual_time
async def test_it_tells_that_its_source_waits_for_results() -> None:
    class Waiting(PagedNumbers):
        async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
            with walk.clock.stopped():
                await asyncio.sleep(100)
            await asyncio.sleep(100)
            yield 1

    walk = make_walk(Waiting(), MemoryStager(), START, None)
    walk.start()
    waited_for = []
    for seconds in (50, 100):
        await asyncio.sleep(seconds)
        waited_for.append(walk.state.waits_for)
    assert waited_for == ["results", "items"]
    await walk.close()


@pytest.mark.asyncio
@virtual_time
@pytest.mark.parametrize("rates", [(None, 4.0), (0.01, 4.0), (50.0, 4.0), (4.0, 40.0), (4.0, 0.5)])
async def test_items_come_at_the_new_rate(rates: tuple[float | None, float]) -> None:
    numbers, (old, new) = PagedNumbers(pages=5000, size=2, delay=0.02), rates
    async with paced(numbers, Pace(rate_limit=old), batch_size=10) as walk:
        await asyncio.sleep(20)
        before = walk.items
        walk.obey(Control(rate_limit=new))
        for _ in range(3):
            before = walk.items
            await asyncio.sleep(20)
            assert walk.items - before == pytest.approx(20 * new, rel=0.1, abs=2 + new / 2)
        walk.obey(Control())
        before = walk.items
        await asyncio.sleep(20)
        assert walk.items - before == pytest.approx(20 * 100, rel=0.2), "what the source can give"


# -- from the XCom to the walk --------------------------------------------------------------------


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryAirflow]:
    made = MemoryAirflow()
    made.install(monkeypatch)
    monkeypatch.setattr(control_module, "HINT_POLL", 0.01)
    yield made
    install_board(None)


@pytest.fixture
def definition() -> StreamDefinition:
    with DAG(DAG_ID, schedule=None):
        return replace(make_stream().definition, mapped_task_id="insert", max_pending=7)


WHERE: dict[str, Any] = {"dag_id": DAG_ID, "run_id": RUN_ID, "task_id": "users", "map_index": -1}


def write_control(value: Any) -> None:
    BaseXCom.set(key=CONTROL_KEY, value=value, **WHERE)


async def until(holds: Callable[[], bool]) -> None:
    late = asyncio.get_running_loop().time() + 10
    while not holds():
        assert asyncio.get_running_loop().time() < late
        await asyncio.sleep(0.01)


@pytest.mark.asyncio
@pytest.mark.parametrize("hinted", [True, False])
async def test_a_trigger_obeys_what_is_written_changed_and_deleted(
    airflow: MemoryAirflow,
    definition: StreamDefinition,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hinted: bool,
) -> None:
    if not hinted:
        monkeypatch.setattr(control_module, "POLL", 0.05)
    board = CommitBoard()
    install_board(board if hinted else None)
    board.beat()

    def tell() -> None:
        board.note_control(control_on_board(DAG_ID, RUN_ID, "users"))

    expansion = Expansion(definition, RUN_ID, "s", for_head=True)
    walk = make_walk(PagedNumbers(), MemoryStager(), START, None)
    await call_in_thread(write_control, {"paused": True})
    reader = ControlReader(expansion, StreamStore(expansion.ref), items_run=True)
    caplog.set_level(logging.WARNING)
    await reader.read()
    async with reader.obeyed_by(walk):
        assert walk.control == Control(paused=True, max_pending=7), "before anything else"
        await call_in_thread(write_control, {"max_pending": 3, "tolerate": 1})
        tell()
        await until(lambda: walk.control == Control(max_pending=3, tolerate=1))
        await call_in_thread(write_control, {"max_pending": "<b>"})
        tell()
        await until(lambda: "is not obeyed: max_pending is '<b>'" in caplog.text)
        assert walk.control == Control(max_pending=3, tolerate=1), "stays"
        await call_in_thread(BaseXCom.delete, key=CONTROL_KEY, **WHERE)
        tell()
        await until(lambda: walk.control == Control(max_pending=7))
    assert "A person has changed stream" in caplog.text


@pytest.mark.asyncio
async def test_a_walk_that_is_opened_in_a_pause_asks_for_nothing(
    airflow: MemoryAirflow,
    definition: StreamDefinition,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(control_module, "POLL", 0.05)
    numbers, expansion = PagedNumbers(), Expansion(definition, RUN_ID, "s", for_head=True)
    await call_in_thread(StreamStore(expansion.ref).write_log, CommitLog("s"))
    await call_in_thread(write_control, {"paused": True})
    session = StreamSession(expansion, WalkOpener(expansion, numbers.open, resumable=True))
    walking = asyncio.create_task(session.walk_on(1))
    await until(lambda: "A person has changed stream" in caplog.text)
    await asyncio.sleep(0.3)  # in which it would have asked
    assert (numbers.opened_at, numbers.given) == ([], [])
    await call_in_thread(write_control, {"paused": False})
    event = await asyncio.wait_for(walking, 10)
    assert isinstance(event, BatchEvent)
    assert event.counts


@pytest.mark.asyncio
async def test_where_nothing_runs_before_the_end_nothing_is_waited_for(
    airflow: MemoryAirflow, definition: StreamDefinition
) -> None:
    expansion = Expansion(definition, RUN_ID, "s", for_head=True)
    walk = make_walk(PagedNumbers(), MemoryStager(), START, None)
    await call_in_thread(write_control, {"max_pending": 3, "rate_limit": 5})
    reader = ControlReader(expansion, StreamStore(expansion.ref), items_run=False)
    await reader.read()
    async with reader.obeyed_by(walk):
        assert walk.control == Control(rate_limit=5)


def test_more_may_fail_than_the_dag_says(airflow: MemoryAirflow, definition: StreamDefinition) -> None:
    definition = replace(definition, tolerate=0)
    airflow.tables.instances |= {("insert", 1): "failed", ("insert", 2): "failed"}
    with pytest.raises(TooManyItemsFailed, match="tolerate=0"):
        require_few_failed_items(definition, RUN_ID, 0, definition.control)
    assert require_few_failed_items(definition, RUN_ID, 0, Control(tolerate=2)) == 0
    with pytest.raises(TooManyItemsFailed, match="tolerate=1"):
        require_few_failed_items(replace(definition, tolerate=None), RUN_ID, 0, Control(tolerate=1))


# -- noticed by the expander ----------------------------------------------------------------------


def test_the_expander_says_on_the_board_what_was_written(database: str) -> None:
    board, stream = CommitBoard(), OpenStream.begin("controlled")
    name = control_on_board(stream.dag_id, METADATA_RUN_ID, USERS)
    watch, key = ControlWatch(board), (XComModel.dag_id == stream.dag_id, XComModel.key == CONTROL_KEY)

    def seen() -> int:
        before = board.controls(name)
        with create_session() as session:
            watch.look(session)
        return board.controls(name) - before

    def write(value: Any) -> None:
        with create_session() as session:
            write_xcom(session, stream.run(session), CONTROL_KEY, USERS, -1, value)

    assert seen() == 0
    write({"paused": True})
    assert (seen(), seen()) == (1, 0)
    write({})
    assert (seen(), seen()) == (1, 0)
    with create_session() as session:
        session.execute(delete(XComModel).where(*key))
    assert (seen(), seen()) == (1, 0)
    write({"paused": True})
    assert seen() == 1
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.dag_id == stream.dag_id).values(state="success"))
    assert (seen(), seen()) == (1, 0)
