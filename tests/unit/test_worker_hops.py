"""A chain whose sync halves run on workers: what is staged of each hop, and where it goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from deferred_expand import DeferredExpandOperator
from deferred_expand.committing.store import StreamStore
from deferred_expand.streams.commit_log import CommitLog, plan_commit
from deferred_expand.streams.ref import StreamRef
from deferred_expand.triggers.hop import HopTrigger
from deferred_expand.workers.hops import WorkerHops
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.unit import operators

if TYPE_CHECKING:
    import pytest

    from deferred_expand.streams.events import BatchEvent

REF = StreamRef(DAG_ID, RUN_ID, "users", "insert")


class Worker:
    """The stream head of one stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **source_kwargs: Any) -> None:
        self.airflow = MemoryAirflow()
        self.airflow.install(monkeypatch)
        with DAG(DAG_ID, schedule=None) as dag:
            stream = DeferredExpandOperator(
                task_id="users", source=operators.QuietFirstOperator, source_kwargs=source_kwargs
            )
        self.store = StreamStore(REF)
        self.store.write_log(CommitLog("s"))
        self.hops = WorkerHops(stream.definition, self.store, source_kwargs, 1, dag, {})

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

        return Hop.from_cursor(trigger.hop).trigger[1]["payload"]


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
