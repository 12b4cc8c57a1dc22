"""Where triggerers load no DAG files: what is refused, and operators whose hops run on workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deferred_expand.testing.local_airflow import LocalAirflow, wait_until
from tests.e2e.conftest import make_connections, start_all
from tests.e2e.runs import CONFIG, REFUSED, ROOT
from tests.paged_api import PagedApi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.runs import Run

    Runs = dict[str, Run]

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def without() -> Iterator[LocalAirflow]:
    config = {**CONFIG, "deferred_expand.load_dags": "False"}
    python_path = [ROOT, ROOT / "tests/e2e/settings"]
    with LocalAirflow(ROOT / "tests/e2e/dags", python_path=python_path, config=config) as running:
        folders = (ROOT / "tests/e2e/dags", ROOT / "example_dags")
        files = [path for folder in folders for path in folder.glob("*.py")]
        running.refused = REFUSED | {path.name for path in files if "@stream" in path.read_text()}
        yield running


@pytest.fixture(scope="module")
def pages() -> Iterator[PagedApi]:
    with PagedApi() as running:
        yield running


@pytest.fixture(scope="module")
def worker_runs(without: LocalAirflow, pages: PagedApi) -> Runs:
    make_connections(without, pages)
    dags = ("http_lambda", "ContextOperatorOfTheFile", "hangs_between_workers")
    return start_all(without, {dag_id: {} for dag_id in dags} | {"ContextOperatorOfTheFile": {"n": 5}})


def test_a_source_of_a_dag_file_is_refused_when_it_is_parsed(without: LocalAirflow) -> None:
    def refused() -> list[str]:
        errors = without.api("GET", "/importErrors")["import_errors"]
        return [error["stack_trace"] for error in errors if "task_streams.py" in error["filename"]]

    (error,) = wait_until("it is parsed", refused, 60)
    assert "SourceNotImportable" in error
    assert "load_dags" in error


def test_the_hops_of_an_operator_run_on_workers(worker_runs: Runs, pages: PagedApi) -> None:
    run = worker_runs["http_lambda"]
    assert run.wait() == "success"
    assert run.result() == [100, 101, 102, 103, 104, 105]
    assert pages.cursors("http_lambda") == [0, 1, 2]
    assert "run on workers: only the DAG file has the operator" in run.log("stream")


def test_it_sees_its_context_in_each_of_them(worker_runs: Runs) -> None:
    run = worker_runs["ContextOperatorOfTheFile"]
    assert run.wait() == "success"
    assert run.result() == [["by default_args", 5, 5, True, True, "users[-1]", "2026-01-02"]] * 2


def test_one_that_hangs_on_a_worker_fails_the_head_by_the_limit(worker_runs: Runs) -> None:
    run = worker_runs["hangs_between_workers"]
    assert run.wait() == "failed"
    expected = "source of task 'stream' in DAG 'hangs_between_workers' gave nothing for 2 s, its page_timeout"
    assert expected in run.log("echo", map_index=0)
