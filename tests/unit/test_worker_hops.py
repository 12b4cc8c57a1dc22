"""A chain whose sync halves run on workers: what is staged of each hop, and where it goes on."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import TimeoutPosix

from deferred_expand import DeferredExpandOperator
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import SourceError, SourceFailed, SourceTimedOut
from deferred_expand.sources.sealing import unseal
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.ref import StreamRef
from deferred_expand.triggers.hop import HopTrigger
from deferred_expand.workers.hops import WorkerHops
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.unit import operators

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from deferred_expand.streams.events import BatchEvent

REF = StreamRef(DAG_ID, RUN_ID, "users", "insert")


class Worker:
    """The stream head of one stream."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        source: type[BaseOperator] = operators.QuietFirstOperator,
        limits: dict[str, Any] | None = None,
        try_number: int = 1,
        log: CommitLog | None = None,
        **source_kwargs: Any,
    ) -> None:
        self.airflow = MemoryAirflow()
        self.airflow.install(monkeypatch)
        with DAG(DAG_ID, schedule=None) as dag:
            stream = DeferredExpandOperator(
                task_id="users", source=source, source_kwargs=source_kwargs, **(limits or {})
            )
        self.store = StreamStore(REF)
        self.store.write_log(log or CommitLog("s"))
        self.hops = WorkerHops(stream.definition, self.store, source_kwargs, try_number, dag, {})

    @property
    def log(self) -> CommitLog:
        log = self.store.read_log()
        assert log is not None
        return log

    @property
    def items(self) -> list[Any]:
        return [self.store.read_item(self.log, n) for n in range(1, self.log.items + 1)]

    def go(self) -> BatchEvent:
        """Hop after hop, up to what fails or ends the stream."""
        outcome = self.hops.go_on(self.log)
        while True:
            if isinstance(outcome, HopTrigger):
                number = outcome.hop
                payload = json.loads(json.dumps({"hop": number, "event": self.event_of(outcome)}))
                outcome = self.hops.after(self.log, payload)
                continue
            plan = plan_commit(self.log, outcome, 1)
            assert plan is not None
            self.store.write(plan)
            if outcome.ended or outcome.failure is not None:
                return outcome
            outcome = self.hops.go_on(self.log)

    def event_of(self, trigger: HopTrigger) -> Any:
        from deferred_expand.sources.chain import Hop

        return Hop.from_cursor(unseal(trigger.hop)).trigger[1]["payload"]


def test_hops_without_items_are_passed_on_without_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch)
    assert worker.go().ended
    assert worker.items == ["1a", "1b", "2a", "2b"]


def test_after_a_bad_item_was_mended_none_is_lost_or_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators.QuietFirstOperator, "bad", "1b")
    worker = Worker(monkeypatch)
    failure = worker.go().failure
    assert failure is not None
    assert "item 2 of the stream" in failure.message
    assert worker.items == ["1a"]
    monkeypatch.setattr(operators.QuietFirstOperator, "bad", "")
    worker.store.write_log(CommitLog.from_json({**worker.log.to_json(), "failure": None}))
    assert worker.go().ended
    assert worker.items == ["1a", "1b", "2a", "2b"]


def test_what_is_passed_over_is_not_taken_from_the_next_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators.QuietFirstOperator, "bad", "1b")
    worker = Worker(monkeypatch)
    worker.go()
    monkeypatch.setattr(operators.QuietFirstOperator, "bad", "1b, which is gone")
    worker.store.write_log(CommitLog.from_json({**worker.log.to_json(), "failure": None}))
    assert worker.go().ended
    assert worker.items == ["1a", "2a", "2b"], "the mended hop has only what is committed"


SLOW = operators.SlowOperator
HOUR = {"execution_timeout": timedelta(hours=1)}


@pytest.mark.parametrize("which", ["begins_in", "takes"])
@pytest.mark.parametrize("limits", [{"page_timeout": 0.1}, {"execution_timeout": timedelta(seconds=0.1)}])
def test_a_half_of_a_hop_that_hangs_on_a_worker_is_ended(
    monkeypatch: pytest.MonkeyPatch, which: str, limits: dict[str, Any]
) -> None:
    arguments: dict[str, Any] = {which: 60}
    worker = Worker(monkeypatch, SLOW, limits, **arguments)
    began = time.monotonic()
    with pytest.raises(SourceError, match="'users' in DAG 'dag' .*" + next(iter(limits))):
        worker.go()
    assert time.monotonic() - began < 30
    Worker(monkeypatch, SLOW, {"page_timeout": 60}).go()


def test_the_alarm_of_airflow_itself_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the unmapped task walks a stream by itself, Airflow limits its time on the worker."""
    worker = Worker(monkeypatch, SLOW, {"page_timeout": 0.3}, begins_in=60)
    with pytest.raises(AirflowTaskTimeout), TimeoutPosix(0.1):
        worker.go()
    with pytest.raises(AirflowTaskTimeout), TimeoutPosix(0.6):  # noqa: PT012
        with pytest.raises(SourceFailed, match="page_timeout"):
            worker.go()
        time.sleep(60)


def test_a_limit_that_passed_in_the_triggerer_fails_the_head_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker(monkeypatch)
    trigger = worker.hops.go_on(worker.log)
    assert isinstance(trigger, HopTrigger)
    with pytest.raises(SourceFailed, match="^gave nothing for 30 s, its page_timeout"):
        worker.hops.after(worker.log, {"hop": trigger.hop, "late": "gave nothing for 30 s, its page_timeout"})


def test_the_wait_for_a_source_is_counted_over_hops_and_commits_of_one_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = iter([600.0, 1200.0])
    worker = Worker(monkeypatch, SLOW, HOUR)
    trigger: Any = worker.hops.go_on(worker.log)
    for waited in waits:
        assert trigger.limits == {
            "name": "source of task 'users' in DAG 'dag'", "page_timeout": None, "execution_timeout": 3600,
        }  # fmt: skip
        event = {"hop": trigger.hop, "event": worker.event_of(trigger), "waited": waited}
        trigger = worker.hops.after(worker.log, event)
        if isinstance(trigger, HopTrigger):
            assert trigger.waited == pytest.approx(waited, abs=60), "nothing is committed"
    plan = plan_commit(worker.log, trigger, 1)
    assert plan is not None
    assert plan.log.waited_in(1) == pytest.approx(1200, abs=60)
    for try_number, expected in ((1, 1200), (2, 0)):
        going_on: Any = Worker(monkeypatch, SLOW, HOUR, try_number, plan.log)
        assert going_on.hops.go_on(plan.log).waited == pytest.approx(expected, abs=60)


def test_a_try_that_has_no_time_left_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = CommitLog("s", waited=(1, 3600.0))
    with pytest.raises(SourceTimedOut, match="execution_timeout of the task, 3600 s in all"):
        Worker(monkeypatch, SLOW, HOUR, log=log).go()
    assert Worker(monkeypatch, SLOW, HOUR, 2, log).go().ended
