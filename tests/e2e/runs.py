"""A run of a DAG of the tests, and the settings of the Airflow that they run on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.state_store import has_state_store

if TYPE_CHECKING:
    from deferred_expand.testing.local_airflow import LocalAirflow

ROOT = Path(__file__).parents[2]
MAX_MAP_LENGTH = 65


def bundle(name: str, path: Path) -> dict[str, Any]:
    return {
        "name": name,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(path)},
    }


# Two bundles, as in a deployment with more than one team.
BUNDLES = [bundle("tests", ROOT / "tests/e2e/dags"), bundle("examples", ROOT / "example_dags")]
# Airflow 3.2 has no task state store.
REFUSED: set[str] = set() if has_state_store() else {"example_iterate.py"}
CONFIG = {
    "dag_processor.dag_bundle_config_list": json.dumps(BUNDLES),
    "core.plugins_folder": str(ROOT / "example_dags/plugins"),
    "core.max_map_length": str(MAX_MAP_LENGTH),
    "core.parallelism": "4",
    "deferred_expand.requeue_delay": "3",
    # With many runs on few processors a head may wait for its worker longer than a walk for its head.
    "deferred_expand.idle_timeout": "300",
    # Lets the delay above be short: see its description.
    "workers.min_heartbeat_interval": "1",
}


@dataclass
class Run:
    """One run of one DAG."""

    airflow: LocalAirflow
    dag_id: str
    run_id: str

    def wait(self, timeout: float = 480) -> str:
        return self.airflow.wait_for_run(self.dag_id, self.run_id, timeout)

    def instances(self, task_id: str) -> list[dict[str, Any]]:
        return self.airflow.task_instances(self.dag_id, self.run_id, task_id)

    def states(self, task_id: str) -> list[str]:
        return [str(ti["state"]) for ti in self.instances(task_id)]

    def result(self, task_id: str = "collect") -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id)

    def xcom_keys(self, task_id: str, map_index: int = -1) -> list[str]:
        path = f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task_id}/xcomEntries"
        entries = self.airflow.api("GET", path, params={"map_index": map_index})["xcom_entries"]
        return [str(entry["key"]) for entry in entries]

    def walked_once(self, asked: list[int]) -> list[int]:
        """Pages as they were asked for, in order; without those that another triggerer asked for again."""
        return sorted(set(asked)) if self.changes_triggerers else asked

    @property
    def changes_triggerers(self) -> bool:
        """
        Where workers commit and there are two triggerers, each trigger may start on the other one and
        ask again for what is not committed yet.
        """
        two = "triggerer 2" in self.airflow.components
        expander = self.airflow.env.get("AIRFLOW__DEFERRED_EXPAND__EXPANDER") != "False"
        return two and (not expander or self.dag_id.endswith("_callback"))

    def log(self, task_id: str, map_index: int = -1, try_number: int = 1) -> str:
        return self.airflow.task_log(self.dag_id, self.run_id, task_id, map_index, try_number)

    def mark(self, task_id: str, state: str, map_index: int = -1) -> None:
        """As a person does."""
        path = f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task_id}"
        self.airflow.api("PATCH", f"{path}/{map_index}", json={"new_state": state})

    def clear(self, *task_ids: Any, **options: Any) -> None:
        self.airflow.clear(self.dag_id, self.run_id, list(task_ids), **options)
