"""Who can read what of a stream in Airflow's database, and which keys that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import TRIGGERERS, start, wait_for_successes
from tests.e2e.sources import PASSWORD, SIGNATURE, TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster


def test_secrets_are_masked_and_encrypted(cluster: Cluster, tmp_path: Path) -> None:
    run, gates = start(cluster, "secretive", tmp_path)
    gates.open(1)
    wait_for_successes(run, 1)
    rows = cluster.ask("select kwargs from trigger")
    assert rows
    assert PASSWORD not in str(rows)
    assert PASSWORD not in str(cluster.ask("select value from xcom where run_id = %s", run.run_id))
    gates.end()
    assert run.wait() == "failed"
    for task_id, map_index in (("stream", -1), ("echo", 0)):
        path = f"/dags/secretive/dagRuns/{run.run_id}/taskInstances/{task_id}"
        ti = cluster.api("GET", path if map_index < 0 else f"{path}/{map_index}")
        shown = ti["rendered_fields"]["source_kwargs"]
        assert shown["password"] == "***", "by its name"
        assert shown["link"] == "https://shop.test/?sig={{ 'sig9' ~ 'nature' }}", "as it is written"
        assert shown["gates"] == str(tmp_path), "the author lets it be seen"
        assert PASSWORD not in run.log(task_id, map_index)
    log = run.log("echo", 0)
    assert "*** was wrong" in log, "what the source raised, as the head's failure"
    assert "*** was wrong" in str(cluster.ask("select value from xcom where run_id = %s", run.run_id))
    tables = cluster.ask("select table_name from information_schema.tables where table_schema = 'public'")
    assert ("rendered_task_instance_fields",) in tables
    for (table,) in tables:
        everything = str(cluster.ask(f'select * from "{table}"'))
        assert PASSWORD not in everything, table
        assert SIGNATURE not in everything, table
        assert TOKEN not in everything, table


@pytest.mark.long
def test_keys_that_differ_and_keys_that_are_changed(cluster: Cluster, tmp_path: Path) -> None:
    """The triggerers get a new key, and then the old one behind it; the workers keep the old one."""
    old, new = cluster.env["AIRFLOW__CORE__FERNET_KEY"], Fernet.generate_key().decode()

    def set_keys(keys: str) -> None:
        for name in TRIGGERERS:
            cluster.kill(name)
        for name in TRIGGERERS:
            cluster.start_component(name, {"core.fernet_key": keys})

    run, gates = start(cluster, "gated_auto", tmp_path)
    try:
        gates.open(2)
        wait_for_successes(run, 2)
        set_keys(new)
        wait_until("the head says that keys differ", lambda: run.states("echo")[0] == "failed", 180)
        assert "the triggerer cannot unseal what this worker has sealed" in run.log("echo", 0)
        set_keys(f"{new},{old}")
        run.clear(["echo", 0])
        gates.open(2)
        wait_for_successes(run, 4)
        set_keys(old)
        gates.end()
        wait_until("the head says that its key is gone", lambda: run.states("echo")[0] == "failed", 180)
        assert "was sealed with a key that is gone" in run.log("echo", 0, try_number=2)
        run.clear("stream", include_downstream=True)
        assert run.wait() == "success"
        assert run.result() == [0, 1, 2, 3]
    finally:
        set_keys(old)
