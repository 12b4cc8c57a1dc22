"""No test of asynchronous code may block its event loop; Airflow's database for those that need it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_blocks_the_event_loop() -> Iterator[None]:
    with blockbuster_ctx("deferred_expand"):
        yield


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a new database with Airflow's tables, to which its settings lead."""
    from tests.metadata_database import metadata_database  # imports Airflow

    with metadata_database(request.param, tmp_path_factory.mktemp("database")) as address:
        yield address


@pytest.fixture
def without_dag_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where triggerers load none."""
    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__LOAD_DAGS", "False")


@pytest.fixture
def dag() -> Iterator[Any]:
    """One that is being written."""
    from airflow.sdk import DAG  # not for tests of plain Python
    from airflow.sdk.definitions._internal.contextmanager import TaskGroupContext

    with DAG("my_dag", schedule=None) as dag, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Task .* was never mapped")
        yield dag
    TaskGroupContext._context.clear()  # a group that was refused is still open
