"""Sources of DAG files on Postgres, with two triggerers: versions of a bundle, and what dies."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.cluster import start, triggerer_of, wait_for_successes
from tests.e2e.repository import DAG_ID

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster
    from tests.e2e.gates import Gates
    from tests.e2e.repository import Repository
    from tests.e2e.runs import Run


def dag_file_processes(cluster: Cluster, triggerer: str) -> list[psutil.Process]:
    """Forked from the server that the triggerer's runner has started."""
    below = psutil.Process(cluster.processes[triggerer].pid).children(recursive=True)
    servers = [process.pid for process in below if "forkserver" in " ".join(process.cmdline())]
    return [process for process in below if process.ppid() in servers]


def start_in(cluster: Cluster, folder: Path) -> tuple[Run, Gates]:
    folder.mkdir()
    return start(cluster, DAG_ID, folder)


@pytest.mark.long
def test_two_versions_of_a_bundle_are_walked_at_once_and_keep_to_theirs_whatever_dies(
    cluster: Cluster, repository: Repository, tmp_path: Path
) -> None:
    repository.wait_until_parsed(cluster)
    old, old_gates = start_in(cluster, tmp_path / "old")
    old_gates.open(2)
    wait_for_successes(old, 2)

    repository.commit("two")
    repository.wait_until_parsed(cluster)
    new, new_gates = start_in(cluster, tmp_path / "new")
    new_gates.open(2)
    wait_for_successes(new, 2)
    old_gates.open(1)
    wait_for_successes(old, 3)

    for process in dag_file_processes(cluster, triggerer_of(cluster, old)):
        os.kill(process.pid, signal.SIGKILL)
    old_gates.open(1)
    wait_for_successes(old, 4)

    killed = triggerer_of(cluster, old)
    cluster.kill(killed)
    old_gates.open(1)
    new_gates.open(1)
    wait_for_successes(old, 5)
    wait_for_successes(new, 3)
    assert triggerer_of(cluster, old) != killed
    cluster.start_component(killed)

    for run, gates, word, items in ((old, old_gates, "one", 5), (new, new_gates, "two", 3)):
        gates.end()
        assert run.wait() == "success"
        assert run.result() == [f"{word} {number}" for number in range(items)]
        assert run.states("echo") == ["success"] * (1 + items)
    for triggerer in ("triggerer", "triggerer 2"):
        wait_until(
            "each process ends with its last stream",
            lambda name=triggerer: not dag_file_processes(cluster, name),  # type: ignore[misc]
            30,
        )
