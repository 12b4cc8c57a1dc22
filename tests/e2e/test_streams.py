"""What a stream promises, on a real Airflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.cluster import Cluster, start, wait_for_successes
from tests.e2e.runs import MAX_MAP_LENGTH, Run

if TYPE_CHECKING:
    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.paged_api import PagedApi

Runs = dict[str, Run]


def test_each_item_is_an_instance_of_the_authors_operator(runs: Runs, api: PagedApi) -> None:
    run = runs["classic"]
    assert run.wait() == "success"

    instances = run.instances("echo")
    assert [ti["map_index"] for ti in instances] == list(range(13))
    assert {ti["state"] for ti in instances} == {"success"}
    assert [result["value"] for result in run.result()] == list(range(12))
    assert api.cursors("classic") == [0, 1, 2, 3], "each page is asked for once"


def test_results_are_in_item_order_and_the_head_gives_none(runs: Runs) -> None:
    run = runs["classic"]
    run.wait()
    assert [int(result["templated"]) for result in run.result()] == list(range(1, 13))


def test_labels_tell_the_stream_from_the_items(runs: Runs) -> None:
    run = runs["classic"]
    run.wait()
    head, *items = run.instances("echo")
    assert head["rendered_map_index"] == "stream ended: 12 items in 3 batches"
    assert [ti["rendered_map_index"] for ti in items] == [f"item {number}" for number in range(12)]


def test_taskflow_with_partial_a_literal_and_an_xcom_as_argument(runs: Runs) -> None:
    run = runs["taskflow"]
    assert run.wait() == "success"
    assert run.result() == [110 + number for number in range(7)]


def test_items_as_keyword_arguments_are_data_and_no_templates(runs: Runs) -> None:
    run = runs["by_kwargs"]
    assert run.wait() == "success"
    assert [result["value"] for result in run.result()] == [0, 1, 2]
    assert {result["templated"] for result in run.result()} == {"{{ 1 / 0 }}"}


def test_items_run_before_the_source_has_given_its_last_page(airflow: LocalAirflow, tmp_path: Path) -> None:
    run, gates = start(airflow, "gated_auto", tmp_path)
    gates.open(1)
    wait_for_successes(run, 1)
    assert ", nothing since 20" in run.instances("echo")[0]["rendered_map_index"]
    gates.open(2)
    wait_for_successes(run, 3)
    gates.end()
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2]


def test_a_stream_without_items_is_skipped(runs: Runs) -> None:
    run = runs["nothing"]
    assert run.wait() == "success"
    assert run.states("echo") == ["skipped"]
    assert run.states("after") == ["skipped"], "as after a native task that maps over nothing"


def test_a_source_that_breaks_goes_on_from_its_cursor(runs: Runs, api: PagedApi) -> None:
    run = runs["breaks"]
    assert run.wait() == "success"
    head, *items = run.instances("echo")
    # Page 2 fails twice: once within the first try, and once more, which ends that try.
    assert api.cursors("breaks") == [0, 1, 2, 2, 2, 3]
    assert head["try_number"] == 2
    assert [ti["try_number"] for ti in items] == [1] * 8
    assert [result["value"] for result in run.result()] == list(range(8))


def test_a_broken_source_shows_its_own_traceback(runs: Runs) -> None:
    run = runs["breaks"]
    run.wait()
    log = run.log("echo", map_index=0, try_number=1)
    assert "ApiBroke: page 2: come back later" in log
    assert "in api_pages" in log


def test_operators_that_defer_can_be_mapped(runs: Runs) -> None:
    run = runs["defers"]
    assert run.wait() == "success"
    assert run.result() == [0, 1]


def test_operators_that_start_from_their_trigger_can_be_mapped(runs: Runs) -> None:
    run = runs["starts_from_trigger"]
    assert run.wait() == "success"
    assert run.result() == [0, 1]


def test_empty_operators_can_be_mapped(runs: Runs) -> None:
    run = runs["empty_operators"]
    assert run.wait() == "success"
    assert run.states("empty") == ["success"] * 3


def test_a_task_after_empty_operators_runs(runs: Runs) -> None:
    run = runs["many_empty_operators"]
    assert run.wait() == "success"
    assert run.states("empty") == ["success"] * 41
    assert run.states("after") == ["success"]


def test_what_the_author_sets_is_the_items(runs: Runs, notes: Path, airflow: LocalAirflow) -> None:
    run = runs["authors_settings"]
    assert run.wait() == "success"
    called = sorted((notes / "authors_settings").read_text().splitlines())
    assert called == ["success echo 1"] * 2 + ["success echo 2"] * 2, "on_execute and on_success, no head"
    events = airflow.api("GET", "/assets/events", params={"source_dag_id": "authors_settings"})
    assert sorted(event["source_map_index"] for event in events["asset_events"]) == [1, 2]


def test_a_bad_item_fails_the_head_and_leaves_what_was_before(runs: Runs, notes: Path) -> None:
    run = runs["bad_item"]
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed", "success", "success"]
    assert "item 3 of the stream (object) cannot be put in an XCom" in run.log("echo", map_index=0)
    assert (notes / "bad_item").read_text() == "failure echo 0\n", "the failure callback is the head's too"


def test_an_ordinary_generator_is_a_source_and_what_it_gives_is_no_template(runs: Runs) -> None:
    run = runs["blocking"]
    assert run.wait() == "success"
    assert run.result() == [f"{{{{ 1 / 0 }}}} {number}" for number in range(4)]


def test_a_page_that_does_not_come_in_time_is_asked_for_again(runs: Runs, notes: Path) -> None:
    run = runs["hangs_twice"]
    assert run.wait() == "success"
    assert [result["value"] for result in run.result()] == [0, 1, 2]
    asked = (notes / "hangs_twice").read_text().count("asked")
    assert asked == 3 or (run.changes_triggerers and asked == 4)


@pytest.mark.parametrize(("dag_id", "items"), [("hangs", 1), ("hangs_between_workers", 0)])
def test_a_source_that_hangs_fails_the_head_by_the_limit(runs: Runs, dag_id: str, items: int) -> None:
    run = runs[dag_id]
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed"] + ["success"] * items
    expected = f"source of task 'stream' in DAG '{dag_id}' gave nothing for 2 s, its page_timeout"
    assert expected in run.log("echo", map_index=0)


def test_execution_timeout_of_the_unmapped_task_ends_walk_and_head(runs: Runs, notes: Path) -> None:
    run = runs["takes_too_long"]
    assert run.wait() == "failed"
    assert run.states("echo") == ["failed", "success", "success"]
    log = run.log("echo", map_index=0)
    assert "source of task 'stream' in DAG 'takes_too_long' was waited for longer than the exec" in log
    assert (notes / "takes_too_long.closed").exists()


def test_too_many_items_name_the_setting_and_the_way_on(runs: Runs) -> None:
    run = runs["too_long"]
    assert run.wait() == "failed"
    log = run.log("echo", map_index=0)
    assert "has reached 0 item(s) and would have 71 instances" in log
    assert "[core] max_map_length" in log
    assert "raise the setting on the API servers and triggerers" in log
    assert "let the source give more per item" in log
    assert MAX_MAP_LENGTH < 71


def as_text(value: str) -> str:
    """A string, out of however many layers of JSON it is in."""
    while value.startswith('"'):
        value = json.loads(value)
    return value


def test_batches_lie_in_object_storage(airflow: LocalAirflow, runs: Runs) -> None:
    if not isinstance(airflow, Cluster) or airflow.xcoms is None:
        pytest.skip("XComs are in the database here")
    run = runs["classic"]
    run.wait()
    query = "select value #>> '{}' from xcom where dag_id = %s and task_id = 'stream' and key like %s"
    values = [as_text(row[0]) for row in airflow.ask(query, run.dag_id, "deferred_expand.batch.%")]
    assert values
    assert [value for value in values if not value.startswith(f"file://{airflow.xcoms}/")] == []
    batches = [json.loads(Path(value.removeprefix("file://")).read_text()) for value in values]
    assert sorted(int(item) for batch in batches for item in batch) == list(range(12))


def test_one_item_can_be_cleared_and_runs_again(runs: Runs) -> None:
    run = runs["taskflow"]
    run.wait()
    run.clear(["add", 3])
    assert run.wait() == "success"
    tries = {ti["map_index"]: ti["try_number"] for ti in run.instances("add")}
    assert tries[3] == 2
    assert run.airflow.xcom(run.dag_id, run.run_id, "add", 3) == 110 + 2
    assert set(run.states("add")) == {"success"}


def test_a_stream_run_again_loses_no_instance(runs: Runs) -> None:
    run = runs["by_kwargs"]
    run.wait()
    run.clear("stream", include_downstream=True)
    assert run.wait() == "success"
    instances = run.instances("echo")
    assert [ti["state"] for ti in instances] == ["success"] * 4
    assert [ti["try_number"] for ti in instances] == [2] * 4
    assert [result["value"] for result in run.result()] == [0, 1, 2]


def test_airflow_knows_the_provider_and_its_settings(airflow: LocalAirflow) -> None:
    providers: list[dict[str, Any]] = airflow.api("GET", "/providers", params={"limit": 200})["providers"]
    assert "deferred-expand" in {provider["package_name"] for provider in providers}
    assert airflow.run("config", "get-value", "deferred_expand", "walk_ahead").strip().endswith("1000")


def test_streams_share_two_triggerers(airflow: LocalAirflow, runs: Runs, tmp_path: Path) -> None:
    for run in runs.values():
        run.wait()
    if "triggerer 2" not in airflow.processes:
        airflow.start_component("triggerer 2")
    started = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        started.append(start(airflow, "gated_auto", folder))
    for _ in range(3):
        for _, gates in started:
            gates.open(2)
    for _, gates in started:
        gates.end()
    for run, _ in started:
        assert run.wait() == "success"
        assert run.result() == list(range(6))
        assert run.states("echo") == ["success"] * 7
