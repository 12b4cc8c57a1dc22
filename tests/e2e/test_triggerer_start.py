"""A triggerer that starts with many streams, while Airflow loads a plugin that takes its time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deferred_expand.testing.local_airflow import COMPONENTS, LocalAirflow, wait_until
from tests.e2e.runs import CONFIG, ROOT, bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREAMS = [f"stream_{number:02}" for number in range(8)]

# Slow where streams are walked only: every task of the test loads it, too.
PLUGIN = """
import os
import time
from pathlib import Path

from airflow.sdk.lineage import get_hook_lineage_collector

if os.environ.get("AIRFLOW__TESTS__SLOW_PLUGINS"):
    time.sleep(2)


def numbers(name, folder, wanted):
    mark = Path(folder, name)
    if not mark.exists():
        mark.touch()
        if name != "stream_00":
            raise ConnectionError("so that it is opened again, a second later")
        # As hooks do. Who asks first has the SDK load the plugins, in whatever thread this is.
        get_hook_lineage_collector()
    yield from filter(wanted, range(20))


def is_even(number):
    return number % 2 == 0
"""

DAG_FILE = """
from airflow.sdk import DAG
from deferred_expand import DeferredExpandOperator
import slow_shop

with DAG("many_streams", schedule=None):
    for name in STREAMS:
        DeferredExpandOperator(
            task_id=name,
            source=slow_shop.numbers,
            source_kwargs={"name": name, "folder": FOLDER, "wanted": slow_shop.is_even},
            batch_interval=0.1,
        )
"""


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[LocalAirflow]:
    marks = tmp_path / "marks"
    marks.mkdir()
    for folder, file, text in (
        ("plugins", "slow_shop.py", PLUGIN),
        (
            "dags",
            "many_streams.py",
            DAG_FILE.replace("STREAMS", repr(STREAMS)).replace("FOLDER", repr(str(marks))),
        ),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(text)
    config = {**CONFIG, "core.plugins_folder": str(tmp_path / "plugins")}
    config["dag_processor.dag_bundle_config_list"] = json.dumps([bundle("dags", tmp_path / "dags")])
    airflow = LocalAirflow(tmp_path / "dags", python_path=[ROOT], config=config)
    airflow.components = {name: COMPONENTS[name] for name in COMPONENTS if name != "triggerer"}
    with airflow:
        airflow.components["triggerer"] = COMPONENTS["triggerer"]
        yield airflow


@pytest.mark.long
def test_every_stream_gives_its_items_when_a_plugin_takes_its_time(deployment: LocalAirflow) -> None:
    deployment.wait_for_dag("many_streams")
    run_id = deployment.trigger("many_streams")

    def states() -> set[str]:
        found = [deployment.task_instances("many_streams", run_id, name) for name in STREAMS]
        return {str(instances[0]["state"]) for instances in found if instances}

    wait_until("all streams are deferred", lambda: states() == {"deferred"}, 120)
    deployment.start_component("triggerer", {"tests.slow_plugins": "1"})
    ended = deployment.wait_for_run("many_streams", run_id)
    if ended != "success":
        deployment.keep_home = True
    assert ended == "success"
    for name in STREAMS:
        log = deployment.xcom("many_streams", run_id, name, key="deferred_expand.log")
        assert (log["items"], log["ended"]) == (10, True)
