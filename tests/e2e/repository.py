"""A git repository with a DAG file, for Airflow's git bundle."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from deferred_expand.testing.local_airflow import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow

DAG_ID = "of_git"
DAG_FILE = f'''
"""A source whose items say of which version of this repository they are."""

from airflow.sdk import DAG, Param, task

import beside_in_git
from deferred_expand import Page, stream
from tests.e2e.operators import EchoOperator
from tests.e2e.sources import gated

with DAG("{DAG_ID}", schedule=None, params={{"gates": Param("", type="string")}}):

    @stream
    async def numbers(gates, cursor=None):
        async for page in gated(gates, cursor):
            yield Page([beside_in_git.mark(item) for item in page.items], cursor=page.cursor)

    @task
    def collect(results):
        return [result["value"] for result in results]

    collect(EchoOperator.partial(task_id="echo").expand(value=numbers("{{{{ params.gates }}}}")).output)
'''


class Repository:
    """With the DAG file and a module beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._git("init", "--quiet", "--initial-branch", "main")
        (folder / "of_git.py").write_text(DAG_FILE)
        self.version = self.commit("one")

    def commit(self, word: str) -> str:
        """A version whose items begin with the word; :return: its name."""
        beside = self.folder / "beside_in_git.py"
        beside.write_text(f"def mark(number):\n    return f'{word} {{number}}'\n")
        self._git("add", ".")
        self._git("commit", "--quiet", "--message", word)
        self.version = self._git("rev-parse", "HEAD")
        return self.version

    def _git(self, *arguments: str) -> str:
        who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false")
        command = ["git", *who, *arguments]
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    @property
    def bundle(self) -> dict[str, Any]:
        return {
            "name": "repository",
            "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
            "kwargs": {"repo_url": str(self.folder), "tracking_ref": "main", "refresh_interval": 2},
        }

    def config(self, others: list[dict[str, Any]]) -> Mapping[str, str]:
        return {
            "dag_processor.dag_bundle_config_list": json.dumps([*others, self.bundle]),
            "dag_processor.dag_bundle_storage_path": str(self.folder.parent / "fetched"),
        }

    def wait_until_parsed(self, airflow: LocalAirflow) -> None:
        """In its last version."""
        airflow.wait_for_dag(DAG_ID)
        wait_until(
            "the version is parsed",
            lambda: airflow.api("GET", f"/dags/{DAG_ID}")["bundle_version"] == self.version,
            90,
        )
