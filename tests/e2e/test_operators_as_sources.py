"""Real providers' operators and triggers, streamed hop by hop, on a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.e2e.runs import Run
    from tests.paged_api import PagedApi

Runs = dict[str, "Run"]


def test_http_operator_pages_by_link_through_hiccups(runs: Runs, api: PagedApi) -> None:
    run = runs["http_links"]
    assert run.wait() == "success"
    assert run.result() == list(range(10))
    assert api.cursors("http_links") == [0, 1, 1, 1, 2, 3, 3, 4], "only what failed is asked for again"
    first, second, third = [one.at for one in api.requests["http_links"] if one.cursor == 1][:3]
    assert second - first >= 2, "Retry-After is honoured"
    assert third - second >= 2
    assert {one.query["size"] for one in api.requests["http_links"]} == {"2"}


def test_http_operator_pages_by_token(runs: Runs, api: PagedApi) -> None:
    run = runs["http_tokens"]
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2, 3]
    assert run.walked_once(api.cursors("http_tokens")) == [0, 1, 2, 3]
    assert "run in the triggerer" in run.log("stream")


def test_what_only_the_dag_file_has_runs_on_the_worker(runs: Runs, api: PagedApi) -> None:
    run = runs["http_lambda"]
    assert run.wait() == "success"
    assert run.result() == [100, 101, 102, 103, 104, 105]
    assert api.cursors("http_lambda") == [0, 1, 2]
    assert "run on workers: only the DAG file has the operator, or a function it is given" in run.log(
        "stream"
    )


def test_pages_of_rows(runs: Runs) -> None:
    run = runs["transfer"]
    assert run.wait() == "success"
    assert run.result() == [
        [[0, "no. 0"], [1, "no. 1"], [2, "no. 2"]],
        [[3, "no. 3"], [4, "no. 4"], [5, "no. 5"]],
        [[6, "no. 6"]],
    ]


def test_a_trigger_is_a_source(runs: Runs) -> None:
    run = runs["trigger_source"]
    assert run.wait() == "success"
    assert run.result() == [0, 1, 2]


def test_an_operator_that_skips_skips_the_mapped_task(runs: Runs) -> None:
    run = runs["skips"]
    assert run.wait() == "success"
    assert run.states("echo") == ["skipped"]
    assert run.states("collect") == ["skipped"]


def test_example_http_pages(runs: Runs) -> None:
    run = runs["example_http_pages"]
    assert run.wait() == "success"
    assert run.states("ship") == ["success"] * 7


def test_example_msgraph_users(runs: Runs, api: PagedApi) -> None:
    run = runs["example_msgraph_users"]
    assert run.wait() == "success"
    labels = [ti["rendered_map_index"] for ti in run.instances("greet")[1:]]
    assert labels == [f"User {n}" for n in range(6)]
    asked = api.requests["users"]
    assert {one.query["$select"] for one in asked} == {"id,displayName"}, "kept on every page"
    assert {one.headers["ConsistencyLevel"] for one in asked} == {"eventual"}
    assert {one.headers["Authorization"] for one in asked} == {"Bearer a token"}


def test_example_list_bucket(runs: Runs) -> None:
    run = runs["example_list_bucket"]
    assert run.wait() == "success"
    assert run.states("load") == ["success"] * 7
