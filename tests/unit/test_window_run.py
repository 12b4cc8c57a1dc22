"""The run of a window: never a second one, whatever dies, and all of it again when a person says so."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse, GetDagRun, OKResponse, TriggerDagRun

from deferred_expand.airflow_internals.sdk import BaseXCom
from deferred_expand.committing.store import CHILD_KEY, StreamStore
from deferred_expand.exceptions import ItemNotFound, WindowRunFailed
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.events import BatchEvent
from deferred_expand.streams.page import START
from deferred_expand.streams.ref import StreamRef
from deferred_expand.workers.window_results import window_results
from deferred_expand.workers.window_run import WindowRun
from deferred_expand.workers.windows import WINDOW_KEY, StreamWindows, Window
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow, ProcessDied

REF = StreamRef(DAG_ID, RUN_ID, "rows", "load")
CHILD = "load_window"
SOME_CALLS = range(12)  # after which a process dies


class AirflowWithRuns(MemoryAirflow):
    """
    :ivar runs: of other DAGs, by id.
    :ivar started: how often runs were, and run again as a whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, SimpleNamespace] = {}
        self.started = self.again = 0
        self.refuses: tuple[int, str] | None = None

    def _answer(self, message: Any) -> Any:
        if isinstance(message, GetDagRun):
            if message.run_id not in self.runs:
                raise AirflowRuntimeError(self._error(404, "not there"))
            return self.runs[message.run_id]
        if isinstance(message, TriggerDagRun):
            return self._trigger(message)
        return super()._answer(message)

    def _trigger(self, message: TriggerDagRun) -> OKResponse:
        if self.refuses:
            raise AirflowRuntimeError(self._error(*self.refuses))
        run = self.runs.get(message.run_id)
        if run is None:
            self.started += 1
            self.runs[message.run_id] = SimpleNamespace(
                conf=message.conf, clear_number=0, state=SimpleNamespace(value="queued")
            )
        elif message.reset_dag_run:
            self.again += 1
            run.clear_number += 1
            run.state.value = "queued"
        else:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.DAGRUN_ALREADY_EXISTS))
        return OKResponse(ok=True)

    def _error(self, status: int, text: str) -> ErrorResponse:
        detail = {"status_code": status, "detail": {"detail": {"message": text}}}
        return ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail)

    def end(self, state: str) -> None:
        (run,) = self.runs.values()
        run.state.value = state


class Instance:
    """A task instance of the parent, and what becomes of it."""

    def __init__(self, airflow: AirflowWithRuns) -> None:
        self.airflow = airflow
        self.max_tries = 0

    def try_(self, window: Window | None = None) -> bool:
        """Begin, until it is known whether to wait for the child."""
        ti = SimpleNamespace(
            dag_id=DAG_ID, run_id=RUN_ID, task_id="load", map_index=1, max_tries=self.max_tries
        )
        # Airflow deletes an instance's XComs when a try begins.
        self.airflow.tables.xcoms.pop(("load", 1, CHILD_KEY), None)
        self.run = WindowRun(CHILD, window or Window(StreamStore(REF), "opening", 1), ti)
        return self.run.attach({"more": 1}, "window 1")

    def clear(self) -> None:
        self.max_tries += 1

    @property
    def told(self) -> Any:
        return BaseXCom.get_one(**self.run.child)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> AirflowWithRuns:
    airflow = AirflowWithRuns()
    airflow.install(monkeypatch)
    return airflow


def attempts(instance: Instance, dies_after: int) -> bool:
    """Begin, die after some calls, and begin again."""
    instance.airflow.dies_after = dies_after
    with suppress(ProcessDied):
        instance.try_()
    instance.airflow.dies_after = None
    return instance.try_()


@pytest.mark.parametrize("dies_after", SOME_CALLS)
def test_it_is_started_once(airflow: AirflowWithRuns, dies_after: int) -> None:
    instance = Instance(airflow)
    assert attempts(instance, dies_after), "it is waited for"
    assert (airflow.started, airflow.again) == (1, 0)
    (run,) = airflow.runs.values()
    assert run.conf["more"] == 1
    assert run.conf[WINDOW_KEY] == {"stream": REF.to_json(), "opening": "opening", "number": 1}
    assert instance.told["clear"] is None


@pytest.mark.parametrize("dies_after", SOME_CALLS)
def test_one_that_has_ended_well_meanwhile_is_done(airflow: AirflowWithRuns, dies_after: int) -> None:
    instance = Instance(airflow)
    instance.try_()
    airflow.end("success")
    assert not attempts(instance, dies_after)
    assert not instance.try_(), "nor does another retry"
    assert (airflow.started, airflow.again) == (1, 0)


@pytest.mark.parametrize("dies_after", SOME_CALLS)
def test_after_its_success_a_clear_has_it_run_again_once(airflow: AirflowWithRuns, dies_after: int) -> None:
    instance = Instance(airflow)
    instance.try_()
    airflow.end("success")
    instance.run.note_done()
    for clears in (1, 2):
        instance.clear()
        assert attempts(instance, dies_after)
        assert (airflow.started, airflow.again) == (1, clears)
        airflow.end("success")
        assert not attempts(instance, dies_after)
        assert (airflow.started, airflow.again) == (1, clears), "a retry does not"


def test_of_one_that_has_failed_the_failed_tasks_are_wanted(airflow: AirflowWithRuns) -> None:
    instance = Instance(airflow)
    instance.try_()
    airflow.end("failed")
    assert instance.try_()
    assert instance.told["clear"] == 0, "how often it was cleared by then"
    assert (airflow.started, airflow.again) == (1, 0)


def test_one_that_was_made_for_another_window_is_an_error(airflow: AirflowWithRuns) -> None:
    instance = Instance(airflow)
    instance.try_()
    (run,) = airflow.runs.values()
    run.conf = {WINDOW_KEY: {**run.conf[WINDOW_KEY], "number": 7}}
    with pytest.raises(AirflowFailException, match="is there already and was not made for window 1"):
        instance.try_()


@pytest.mark.parametrize(("status", "why"), [(404, "Dag not found"), (400, "Dag has import errors")])
def test_one_that_airflow_refuses_says_why(airflow: AirflowWithRuns, status: int, why: str) -> None:
    airflow.refuses = status, why
    with pytest.raises(WindowRunFailed, match=rf"cannot be started for window 1 of the stream.*: {why}"):
        Instance(airflow).try_()


def test_one_that_airflow_does_not_run_again_says_why(airflow: AirflowWithRuns) -> None:
    instance = Instance(airflow)
    instance.try_()
    airflow.end("success")
    instance.run.note_done()
    instance.clear()
    airflow.refuses = 400, "Dag has import errors"
    with pytest.raises(WindowRunFailed, match=r"cannot be started for window 1 .*: Dag has import errors"):
        instance.try_()
    airflow.refuses = None
    assert instance.try_()
    assert airflow.again == 1


def commit(store: StreamStore, log: CommitLog, counts: tuple[int, ...], sizes: tuple[int, ...]) -> CommitLog:
    event = BatchEvent(log.stream, "w", log.batches, counts, START)
    plan = plan_commit(log, event, 1)
    assert plan is not None
    first = 100 * log.batches
    for number, size in enumerate(sizes, log.batches):
        store.write_batch(f"{number}.w", [str(first + n) for n in range(size)])
        first += 100
    store.write(plan)
    return plan.log


def test_a_window_is_read_batch_by_batch(airflow: AirflowWithRuns) -> None:
    store = StreamStore(REF)
    log = commit(store, CommitLog("opening", unit="window"), (0, 0, 1, 0), (3, 2, 0, 1))
    (_, window) = StreamWindows(store, map_index=1)
    assert StreamWindows(store, map_index=3)[1].number == 3, "one that a shorter stream does not have"
    read = Window.from_json({**window.to_json(), "parts": window.parts})
    airflow.requests.clear()
    assert len(read) == 5
    assert not airflow.requests, "the length is known"
    assert list(read) == [0, 1, 2, 100, 101]
    assert [read[0], read[4], read[-5]] == [0, 101, 0]
    assert read[1:4] == [1, 2, 100]
    with pytest.raises(IndexError):
        read[5]
    commit(store, log, (1,), (2,))
    assert list(Window(store, "opening", 2)) == [300, 400, 401]


def test_a_window_of_another_opening_is_gone(airflow: AirflowWithRuns) -> None:
    store = StreamStore(REF)
    commit(store, CommitLog("new", unit="window"), (1,), (3,))
    for number, opening in ((1, "old"), (2, "new")):
        with pytest.raises(ItemNotFound, match=r"is gone: the stream was opened anew.* Clear 'rows'"):
            len(Window(store, opening, number))
    with pytest.raises(ItemNotFound, match="is gone"):
        list(Window(store, "new", 1, parts=[("7.w", 3)]))


def test_results_are_those_of_the_task_in_their_order(airflow: AirflowWithRuns) -> None:
    told = {"dag_id": CHILD, "run_id": RUN_ID, "task_id": "double"}
    for index, value in ((0, 10), (1, None), (2, 30)):
        airflow.tables.instances["double", index] = "success"
        if value is not None:
            airflow.tables.xcoms["double", index, "return_value"] = str(value)
    found = window_results(told)
    assert list(found) == [10, None, 30]
    assert found[-1] == 30
    airflow.tables.instances["total", -1] = "success"
    airflow.tables.xcoms["total", -1, "return_value"] = "60"
    assert list(window_results({**told, "task_id": "total"})) == [60]
    with pytest.raises(WindowRunFailed, match="say results_of="):
        window_results({**told, "task_id": None})
