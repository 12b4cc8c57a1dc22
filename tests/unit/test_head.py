"""The stream head asks to be queued again only when that is safe."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
import time_machine
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRescheduleException

from deferred_expand import DeferredExpandOperator
from deferred_expand.operators.head import StreamHeadOperator
from tests.e2e import sources

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(("delay", "seconds"), [("30", 30), ("10", 10), ("0", 6)])
def test_it_waits_until_the_last_worker_is_reported(
    monkeypatch: pytest.MonkeyPatch, delay: str, seconds: int
) -> None:
    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__REQUEUE_DELAY", delay)
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "5")
    with DAG("dag", schedule=None):
        stream = DeferredExpandOperator(task_id="s", source=sources.numbers, source_kwargs={"count": 1})
        head = StreamHeadOperator(task_id="head", stream=stream)
    with time_machine.travel(NOON, tick=False), pytest.raises(AirflowRescheduleException) as raised:
        head._requeue()
    assert raised.value.reschedule_date == NOON + timedelta(seconds=seconds)
