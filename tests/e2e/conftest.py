"""One running Airflow for all end-to-end tests, and one run of each DAG, started together."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.testing.local_airflow import LocalAirflow
from tests.e2e.cluster import postgres_cluster
from tests.e2e.repository import Repository
from tests.e2e.runs import BUNDLES, CONFIG, REFUSED, ROOT, Run
from tests.paged_api import PagedApi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


SUB_PATH = "/team/airflow"
"""Below which all is served, so that pages show that they work there; pictures and demo have none."""


@pytest.fixture(scope="session")
def api(airflow: LocalAirflow) -> Iterator[PagedApi]:
    """One for each Airflow, so that it counts what this one asks."""
    with PagedApi() as running:
        yield running


@pytest.fixture(scope="session", params=["expander", "callback"])
def airflow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """An Airflow for each committer; everything holds with both."""
    repository = Repository(tmp_path_factory.mktemp("git") / "repository")
    config = {
        **CONFIG,
        **repository.config(BUNDLES),
        "deferred_expand.expander": str(request.param == "expander"),
    }
    deployment: AbstractContextManager[LocalAirflow] = (
        postgres_cluster(tmp_path_factory.mktemp("servers"), config, celery=True)
        if request.config.getoption("--celery")
        else LocalAirflow(
            ROOT / "tests/e2e/dags",
            python_path=[ROOT, ROOT / "tests/e2e/settings"],
            config=config,
            path=SUB_PATH,
        )
    )
    with deployment as running:
        running.refused |= REFUSED
        running.api("POST", "/pools", json={"name": "slotless", "slots": 0})
        running.api("POST", "/variables", json={"key": "colour", "value": "blue"})
        yield running
        if request.session.testsfailed:
            running.keep_home = True
            print(f"{running.outputs()}\nkept for a look: {running.home}")


def make_connections(airflow: LocalAirflow, api: PagedApi) -> None:
    database = airflow.home / "numbers.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table numbers (number integer, name text)")
        connection.executemany("insert into numbers values (?, ?)", [(n, f"no. {n}") for n in range(7)])
    host, port = api.host.split(":")
    connections: dict[str, dict[str, Any]] = {
        "paged_api": {"conn_type": "http", "host": host, "port": int(port)},
        "shop": {"conn_type": "http", "host": host, "port": int(port)},
        "msgraph": {
            "conn_type": "msgraph",
            "host": api.host,
            "schema": "http",
            "login": "client",
            "password": "secret",
            "extra": json.dumps({"tenant_id": "tenant"}),
        },
        "numbers": {"conn_type": "sqlite", "host": str(database)},
    }
    for connection_id, fields in connections.items():
        airflow.api("POST", "/connections", json={"connection_id": connection_id, **fields})


@pytest.fixture(scope="session")
def notes(airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where callbacks leave their traces, a file for each DAG."""
    return tmp_path_factory.mktemp("notes")


def start_all(airflow: LocalAirflow, confs: dict[str, dict[str, Any]]) -> dict[str, Run]:
    """A run of each DAG: what waits in one leaves the processors to the others."""
    started = {}
    for dag_id, conf in confs.items():
        airflow.wait_for_dag(dag_id)
        started[dag_id] = Run(airflow, dag_id, airflow.trigger(dag_id, conf))
    return started


@pytest.fixture(scope="session")
def runs(airflow: LocalAirflow, api: PagedApi, notes: Path) -> dict[str, Run]:
    """Of DAGs of which a committer may make something else than the other one does."""
    api.fail("breaks", cursor=2, times=2)
    confs: dict[str, dict[str, Any]] = {
        "classic": {"url": api.url("classic")},
        "breaks": {"url": api.url("breaks")},
        "taskflow": {},
        "by_kwargs": {},
        "nothing": {},
        "defers": {},
        "starts_from_trigger": {},
        "empty_operators": {},
        "many_empty_operators": {},
        "authors_settings": {"notes": str(notes / "authors_settings")},
        "bad_item": {"notes": str(notes / "bad_item")},
        "blocking": {},
        "hangs_twice": {"notes": str(notes / "hangs_twice")},
        "hangs": {},
        "takes_too_long": {"notes": str(notes / "takes_too_long")},
        "hangs_between_workers": {},
        "too_long": {},
    }
    return start_all(airflow, confs)


@pytest.fixture(scope="session")
def shaping_runs(airflow: LocalAirflow, api: PagedApi) -> dict[str, Run]:
    """Of streams that are shaped, combined, shared and read."""
    dag_ids = ("shaped", "nothing_left", "skips_one", "only_read", "parent_fails", "search")
    return start_all(airflow, {"shared": {"url": api.url("shared")}, **{dag_id: {} for dag_id in dag_ids}})


@pytest.fixture(scope="session")
def task_runs(airflow: LocalAirflow) -> dict[str, Run]:
    """Of streams whose sources only their DAG files have."""
    confs: dict[str, dict[str, Any]] = {
        "in_the_dag_file": {},
        "context_of_a_source": {"who": "all"},
        "crashes_in_its_process": {},
        "with_conditions": {},
        "results_in_the_dag_file": {},
        "lambda_of_an_importable_source": {},
    }
    if has_state_store():
        confs["iterated_stream"] = {}
    return start_all(airflow, confs)


@pytest.fixture(scope="session")
def source_runs(airflow: LocalAirflow, api: PagedApi) -> dict[str, Run]:
    """Of providers' operators and of the examples: what a source gives is the same to both committers."""
    make_connections(airflow, api)
    api.fail("http_links", cursor=1, times=2, how="429")
    api.fail("http_links", cursor=3, times=1, how="broken")
    api.fail("users", cursor=1, times=1, how="503")
    confs: dict[str, dict[str, Any]] = {
        "http_links": {},
        "http_tokens": {},
        "http_lambda": {},
        "transfer": {},
        "trigger_source": {},
        "skips": {},
        "own_context": {"n": 5},
        "template_file": {},
        "ContextOperator": {"n": 5},
        "ContextOperatorOfTheFile": {"n": 5},
        "example_http_pages": {},
        "example_msgraph_users": {},
        "example_shaped_stream": {},
        "example_zip_streams": {},
        "example_random_search": {},
        "example_item_states": {},
        "example_back_pressure": {},
        "example_list_bucket": {"bucket": api.url("bucket/objects")},
        "example_stream_pages": {"url": api.url("example_stream_pages")},
        "example_task_stream": {"url": api.url("example_task_stream")},
        "example_stream_files": {"folder": str(ROOT / "example_dags"), "pattern": "*.py"},
    }
    return start_all(airflow, confs)
