"""Real providers' operators and triggers, and the examples, on a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.runs import ROOT

if TYPE_CHECKING:
    from tests.e2e.runs import Run
    from tests.paged_api import PagedApi

Runs = dict[str, "Run"]

pytestmark = pytest.mark.parametrize(
    "airflow", ["expander", pytest.param("callback", marks=pytest.mark.long)], indirect=True
)


def test_http_operator_pages_by_link_through_hiccups(source_runs: Runs, api: PagedApi) -> None:
    run = source_runs["http_links"]
    assert run.wait() == "success"
    assert run.result() == list(range(10))
    assert api.cursors("http_links") == [0, 1, 1, 1, 2, 3, 3, 4], "only what failed is asked for again"
    first, second, third = [one.at for one in api.requests["http_links"] if one.cursor == 1][:3]
    assert second - first >= 2, "Retry-After is honoured"
    assert third - second >= 2
    assert {one.query["size"] for one in api.requests["http_links"]} == {"2"}


def test_http_operator_pages_by_token(source_runs: Runs, api: PagedApi) -> None:
    run = source_runs["http_tokens"]
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2, 3]
    assert run.walked_once(api.cursors("http_tokens")) == [0, 1, 2, 3]
    assert "run in the triggerer" in run.log("stream")


def test_what_only_the_dag_file_has_runs_in_a_process_that_loads_it(source_runs: Runs, api: PagedApi) -> None:
    run = source_runs["http_lambda"]
    assert run.wait() == "success"
    assert run.result() == [100, 101, 102, 103, 104, 105]
    assert api.cursors("http_lambda") == [0, 1, 2]
    assert "run in the triggerer, in a process that loads the DAG file" in run.log("stream")


def test_pages_of_rows(source_runs: Runs) -> None:
    run = source_runs["transfer"]
    assert run.wait() == "success"
    assert run.result() == [
        [[0, "no. 0"], [1, "no. 1"], [2, "no. 2"]],
        [[3, "no. 3"], [4, "no. 4"], [5, "no. 5"]],
        [[6, "no. 6"]],
    ]


def test_a_trigger_is_a_source(source_runs: Runs) -> None:
    run = source_runs["trigger_source"]
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2]


def test_arguments_are_rendered_as_the_streams_own(source_runs: Runs) -> None:
    """Though it is the head, an instance of another task, that renders them."""
    run = source_runs["own_context"]
    assert run.wait() == "success"
    name = f"own_context__users__{run.run_id}"
    assert run.result() == ["5", "of users", "of the DAG", "users[-1]", "users", name, run.run_id]


@pytest.mark.parametrize("dag_id", ["ContextOperator", "ContextOperatorOfTheFile"])
def test_an_operator_sees_its_context_in_each_hop(source_runs: Runs, dag_id: str) -> None:
    """In the triggerer, and in a process that loads the DAG file."""
    run = source_runs[dag_id]
    assert run.wait() == "success"
    assert run.result() == [["by default_args", 5, 5, True, True, "users[-1]", "2026-01-02"]] * 2


def test_the_file_that_an_operators_template_field_names_is_rendered(source_runs: Runs) -> None:
    run = source_runs["template_file"]
    assert run.wait() == "success"
    assert [number for number, _ in run.result()] == [0, 1]


def test_an_operator_that_skips_skips_the_mapped_task(source_runs: Runs) -> None:
    run = source_runs["skips"]
    assert run.wait() == "success"
    assert run.states("echo") == ["skipped"]
    assert run.states("collect") == ["skipped"]


def test_example_http_pages(source_runs: Runs) -> None:
    run = source_runs["example_http_pages"]
    assert run.wait() == "success"
    assert run.states("ship") == ["success"] * 7


def test_example_msgraph_users(source_runs: Runs, api: PagedApi) -> None:
    run = source_runs["example_msgraph_users"]
    assert run.wait() == "success"
    labels = [ti["rendered_map_index"] for ti in run.instances("greet")[1:]]
    assert labels == [f"User {n}" for n in range(6)]
    asked = api.requests["users"]
    assert {one.query["$select"] for one in asked} == {"id,displayName"}, "kept on every page"
    assert {one.headers["ConsistencyLevel"] for one in asked} == {"eventual"}
    assert {one.headers["Authorization"] for one in asked} == {"Bearer a token"}


def test_example_list_bucket(source_runs: Runs) -> None:
    run = source_runs["example_list_bucket"]
    assert run.wait() == "success"
    assert run.states("load") == ["success"] * 7


def test_example_stream_pages(source_runs: Runs) -> None:
    run = source_runs["example_stream_pages"]
    assert run.wait() == "success"
    assert run.result("report") == 6


def test_example_task_stream(source_runs: Runs) -> None:
    run = source_runs["example_task_stream"]
    assert run.wait() == "success"
    assert run.result("report") == 5


def test_example_item_states(source_runs: Runs) -> None:
    """What README gives in the place of trigger rules that count the head."""
    run = source_runs["example_item_states"]
    assert run.wait() == "success"
    assert run.states("load") == ["success", "skipped", "skipped", "success", "success"]
    states = {task: run.states(task) for task in ("one_is_loaded", "report", "all_are_small", "advertise")}
    assert states == {
        "one_is_loaded": ["success"], "report": ["success"],
        "all_are_small": ["skipped"], "advertise": ["skipped"],
    }  # fmt: skip


def test_example_stream_files(source_runs: Runs) -> None:
    run = source_runs["example_stream_files"]
    assert run.wait() == "success"
    files = sorted(str(path) for path in (ROOT / "example_dags").rglob("*.py"))
    assert [ti["rendered_map_index"] for ti in run.instances("count_bytes")[1:]] == files


def test_the_examples(source_runs: Runs) -> None:
    shaped = source_runs["example_shaped_stream"]
    assert shaped.wait() == "success"
    assert len(shaped.states("ship")) == 1 + 6
    assert len(shaped.states("check")) == 1 + 2
    assert shaped.result("report") == 450.0
    zipped = source_runs["example_zip_streams"]
    assert zipped.wait() == "success"
    assert zipped.states("load") == ["success"] * (1 + 4), "five trucks, four orders"
    search = source_runs["example_random_search"]
    assert search.wait() == "success"
    assert search.states("sell_at") == ["success"] * (1 + 3)
    assert source_runs["example_back_pressure"].wait() == "success"
