"""``dag.test()`` works for all of it, without a triggerer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.testing.local_airflow import LocalAirflow
from tests.e2e.runs import CONFIG, ROOT
from tests.paged_api import PagedApi

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.timeout(1600)


@pytest.fixture(scope="module")
def api() -> Iterator[PagedApi]:
    with PagedApi() as running:
        yield running


@pytest.fixture(scope="module")
def inline(api: PagedApi, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What ``dag.test()`` gave for each DAG, in databases of their own: no scheduler takes part."""
    api.fail("breaks_inline", cursor=2, times=2)
    notes = tmp_path_factory.mktemp("inline")
    confs = {
        "classic": {"url": api.url("classic_inline")},
        "taskflow": {},
        "by_kwargs": {},
        "nothing": {},
        "breaks": {"url": api.url("breaks_inline")},
        "defers": {},
        "empty_operators": {},
        "bad_item": {"notes": str(notes / "bad_item")},
        "blocking": {},
        "too_long": {},
        "shaped": {},
        "skips_one": {},
        "shared": {"url": api.url("shared_inline")},
        "only_read": {},
        "parent_fails": {},
        "search": {},
        "in_the_dag_file": {},
        "grows_numbers": {},
        "grows_in_a_loop": {},
        "context_of_a_source": {"who": "all"},
    }
    if has_state_store():
        confs |= {"iterated_stream": {}, "iterated_in_all_ways": {}}
    arguments = [(dag_id, json.dumps(conf)) for dag_id, conf in confs.items()]
    with ThreadPoolExecutor() as pool:
        halves = list(pool.map(run_inline, (arguments[::2], arguments[1::2])))
    return {**halves[0], **halves[1]}


def run_inline(arguments: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    airflow = LocalAirflow(ROOT / "tests/e2e/dags", python_path=[ROOT], config=CONFIG)
    airflow.migrate()
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.run_inline", *chain.from_iterable(arguments)],
        env=airflow.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,  # 3.2.2 takes 2 to 5 s of processor time for a task instance in dag.test()
    )
    shutil.rmtree(airflow.home)
    last = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert last, done.stdout[-3000:] + done.stderr[-3000:]
    results: dict[str, dict[str, Any]] = json.loads(last[0].removeprefix("RESULTS "))
    return results


def test_classic_operators_run_inline(inline: dict[str, dict[str, Any]], api: PagedApi) -> None:
    assert inline["classic"]["state"] == "success"
    assert [result["value"] for result in inline["classic"]["result"]] == list(range(12))
    assert api.cursors("classic_inline") == [0, 1, 2, 3]


def test_taskflow_runs_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["taskflow"]["result"] == [110 + number for number in range(7)]


def test_expand_kwargs_runs_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert [result["value"] for result in inline["by_kwargs"]["result"]] == [0, 1, 2]


def test_nothing_is_skipped_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["nothing"]["state"] == "success"
    assert inline["nothing"]["instances"]["echo[0]"] == "skipped"
    assert inline["nothing"]["instances"]["after[-1]"] == "skipped"


def test_a_broken_source_goes_on_inline(inline: dict[str, dict[str, Any]], api: PagedApi) -> None:
    assert inline["breaks"]["state"] == "success"
    assert api.cursors("breaks_inline") == [0, 1, 2, 2, 2, 3]
    assert [result["value"] for result in inline["breaks"]["result"]] == list(range(8))


@pytest.mark.parametrize(("dag_id", "items"), [("defers", 2), ("empty_operators", 2), ("blocking", 4)])
def test_special_operators_and_sources_run_inline(
    inline: dict[str, dict[str, Any]], dag_id: str, items: int
) -> None:
    mapped = [
        state for name, state in inline[dag_id]["instances"].items() if name.startswith(("echo[", "empty["))
    ]
    assert mapped == ["success"] * (1 + items)


@pytest.mark.parametrize("dag_id", ["bad_item", "too_long"])
def test_failures_fail_inline(inline: dict[str, dict[str, Any]], dag_id: str) -> None:
    assert inline[dag_id]["state"] == "failed"
    assert inline[dag_id]["instances"]["echo[0]"] == "failed"


def echoed(inline: dict[str, dict[str, Any]], dag_id: str) -> dict[str, list[str]]:
    states: dict[str, list[str]] = {}
    for name, state in inline[dag_id]["instances"].items():
        states.setdefault(name.partition("[")[0], []).append(state)
    return states


def test_shaped_streams_run_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["shaped"]["result"] == ["0A", "0B", "2A", "2B", "4A", "4B"]
    assert sorted(echoed(inline, "skips_one")["echo"]) == ["skipped", *["success"] * 4]


def test_shared_streams_run_inline(inline: dict[str, dict[str, Any]], api: PagedApi) -> None:
    assert inline["shared"]["state"] == "success"
    states = echoed(inline, "shared")
    assert {task: len(states[task]) for task in ("echo", "even", "pair", "all")} == {
        "echo": 4, "even": 3, "pair": 4, "all": 6,
    }  # fmt: skip
    assert api.cursors("shared_inline") == [0, 1, 2]
    assert inline["only_read"]["state"] == "success"


def test_failures_of_parents_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["parent_fails"]["state"] == "failed"
    assert sorted(echoed(inline, "parent_fails")["tens"]) == ["failed", "success", "success"]


def test_a_loop_runs_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["search"]["result"] == list(range(9))


def test_a_task_group_is_expanded_at_the_end_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["grows_numbers"]["result"] == [[3 * n, 2 * n, 3 * n] for n in range(4)]
    assert inline["grows_numbers"]["state"] == "success"
    assert inline["grows_in_a_loop"]["state"] == "failed"


def test_sources_of_the_dag_file(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["in_the_dag_file"]["result"] == [1, -1, 2, -2, 4, -4, 5, -5]
    seen = inline["context_of_a_source"]
    assert seen["state"] == "success"
    assert seen["result"][:3] == [["all", "seen", True, "all", True], "all", "seen"]


@pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store")
def test_many_items_run_in_one_instance_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["iterated_in_all_ways"]["state"] == "success"
    result = inline["iterated_in_all_ways"]["result"]
    assert result["doubled"] == [2 * value for value in range(25) if value != 3]
    assert result["hops"] == [10 * value for value in range(25)]
    assert result["products"] == [10 * value + other for value in range(1, 26) for other in (0, 1)]


@pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store")
def test_a_batch_of_a_stream_runs_in_one_instance_inline(inline: dict[str, dict[str, Any]]) -> None:
    assert inline["iterated_stream"]["state"] == "success"
    result = inline["iterated_stream"]["result"]
    assert result["tripled"] == [3 * number for number in range(30) if number % 10 and number != 6]
