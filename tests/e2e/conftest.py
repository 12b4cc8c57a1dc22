"""One running Airflow for all end-to-end tests, and one run of each DAG, started together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.testing.local_airflow import LocalAirflow
from tests.paged_api import PagedApi

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MAX_MAP_LENGTH = 50

# Two bundles, as in a deployment with more than one team.
BUNDLES: list[dict[str, Any]] = [
    {
        "name": name,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(path)},
    }
    for name, path in (("tests", ROOT / "tests/e2e/dags"), ("examples", ROOT / "example_dags"))
]
CONFIG = {
    "dag_processor.dag_bundle_config_list": json.dumps(BUNDLES),
    "core.plugins_folder": str(ROOT / "example_dags/plugins"),
    "core.max_map_length": str(MAX_MAP_LENGTH),
    "core.parallelism": "4",
    "deferred_expand.requeue_delay": "3",
    # Lets the delay above be short: see its description.
    "workers.min_heartbeat_interval": "1",
}


@dataclass
class Run:
    """One run of one DAG."""

    airflow: LocalAirflow
    dag_id: str
    run_id: str

    def wait(self, timeout: float = 240) -> str:
        return self.airflow.wait_for_run(self.dag_id, self.run_id, timeout)

    def instances(self, task_id: str) -> list[dict[str, Any]]:
        return self.airflow.task_instances(self.dag_id, self.run_id, task_id)

    def states(self, task_id: str) -> list[str]:
        return [str(ti["state"]) for ti in self.instances(task_id)]

    def result(self, task_id: str = "collect") -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id)

    def log(self, task_id: str, map_index: int = -1, try_number: int = 1) -> str:
        return self.airflow.task_log(self.dag_id, self.run_id, task_id, map_index, try_number)

    def clear(self, *task_ids: Any, **options: Any) -> None:
        self.airflow.clear(self.dag_id, self.run_id, list(task_ids), **options)


@pytest.fixture(scope="session")
def api(airflow: LocalAirflow) -> Iterator[PagedApi]:
    """One for each Airflow, so that it counts what this one asks."""
    with PagedApi() as running:
        yield running


@pytest.fixture(scope="session", params=["expander", "callback"])
def airflow(request: pytest.FixtureRequest) -> Iterator[LocalAirflow]:
    """An Airflow for each committer; everything holds with both."""
    config = {**CONFIG, "deferred_expand.expander": str(request.param == "expander")}
    with LocalAirflow(
        ROOT / "tests/e2e/dags", python_path=[ROOT, ROOT / "tests/e2e/settings"], config=config
    ) as running:
        running.api("POST", "/pools", json={"name": "slotless", "slots": 0})
        running.start_component("triggerer 2")
        yield running
        if request.session.testsfailed:
            running.keep_home = True
            print(f"{running.outputs()}\nkept for a look: {running.home}")


@pytest.fixture(scope="session")
def notes(airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where callbacks leave their traces, a file for each DAG."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="session")
def runs(airflow: LocalAirflow, api: PagedApi, notes: Path) -> dict[str, Run]:
    """A run of each DAG: what waits in one leaves the processors to the others."""
    api.fail("breaks", cursor=2, times=2)
    confs: dict[str, dict[str, Any]] = {
        "slow_source": {"url": api.url("slow_source")},
        "classic": {"url": api.url("classic")},
        "breaks": {"url": api.url("breaks")},
        "taskflow": {},
        "by_kwargs": {},
        "nothing": {},
        "defers": {},
        "starts_from_trigger": {},
        "empty_operators": {},
        "authors_settings": {"notes": str(notes / "authors_settings")},
        "bad_item": {"notes": str(notes / "bad_item")},
        "blocking": {},
        "too_long": {},
        "example_stream_pages": {"url": api.url("example_stream_pages")},
        "example_stream_files": {"folder": str(ROOT / "example_dags"), "pattern": "*.py"},
    }
    started = {}
    for dag_id, conf in confs.items():
        airflow.wait_for_dag(dag_id)
        started[dag_id] = Run(airflow, dag_id, airflow.trigger(dag_id, conf))
    return started
