"""Many items in one task instance, while Airflow cannot be reached."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.told import start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

CHECKPOINT = 1.0  # seconds, the default

pytestmark = pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_while_nothing_can_be_written_no_item_begins(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    run, told = start(cluster, f"iterated_{kind}", tmp_path, items=120, takes=0.2)
    wait_until("some have ended", lambda: len(told.ended()) >= 20, 120)
    cluster.kill("api-server")
    cut_at = time.time()

    def last_begun() -> float:
        return max(at for times in told.notes()["begin"].values() for at in times)

    wait_until("none begins any more", lambda: time.time() > max(last_begun(), cut_at) + 3, 60)
    assert last_begun() < cut_at + CHECKPOINT + 1.5, "and a moment in which the server ended"
    assert len(told.ended()) < 120
    cluster.start_component("api-server")
    cluster.wait_for_answers()
    assert run.wait() == "success"
    # Airflow ends a process whose heartbeats fail for long: the next try runs what could not be written.
    ends = told.notes()["end"]
    again = {index: times for index, times in ends.items() if len(times) > 1}
    assert all(len(times) == 2 and times[0] > cut_at - CHECKPOINT - 0.5 for times in again.values())
    assert set(ends) == set(range(120))
    assert run.result() == [10 * index for index in range(120)]
