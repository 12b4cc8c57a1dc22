"""Run DAGs of the tests with ``dag.test()``, and print what came out: ``python -m ... dag_id conf ...``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import BundleDagBag

from tests.e2e.runs import BUNDLES


def run_inline(dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
    bundle = next(bundle for bundle in BUNDLES if bundle["name"] == "tests")
    folder = Path(bundle["kwargs"]["path"])
    dag = BundleDagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="tests").get_dag(dag_id)
    run = dag.test(run_conf=conf)
    instances = run.get_task_instances()
    states = {f"{ti.task_id}[{ti.map_index}]": str(ti.state) for ti in instances}
    collected = [ti.xcom_pull(task_ids="collect") for ti in instances if ti.task_id == "collect"]
    return {"state": str(run.state), "instances": states, "result": next(iter(collected), None)}


if __name__ == "__main__":
    results = {}
    for dag_id, conf in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        results[dag_id] = run_inline(dag_id, json.loads(conf))
    print("RESULTS " + json.dumps(results))
