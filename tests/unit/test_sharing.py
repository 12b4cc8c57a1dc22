"""What a DAG looks like when several tasks follow one stream."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task

from tests.e2e import sources
from tests.e2e.operators import EchoOperator
from tests.unit.graphs import edges, expand, length_from, stream


def test_the_only_consumer_needs_no_task_in_between(dag: DAG) -> None:
    expand("echo", stream().output.filter(sources.is_even).map(lambda number: -number))
    assert edges(dag) == {"users > echo"}
    assert length_from(dag, "echo") == {"users"}


def test_an_edge_by_hand_beside_the_expansion_changes_nothing(dag: DAG) -> None:
    users, create = stream(), EmptyOperator(task_id="create")
    insert = expand("insert", users.output)
    [create, users] >> insert
    insert << users
    insert.set_upstream([users, create])
    assert edges(dag) == {"users > insert", "create > insert"}
    assert length_from(dag, "insert") == {"users"}


def test_a_second_task_follows_the_first_ones_stream(dag: DAG) -> None:
    users = stream()
    expand("echo", users.output)
    expand("even", users.output.filter(sources.is_even))
    expand("all", users.output)
    assert edges(dag) == {
        "users > echo", "users > users.even", "users.even > even", "users > users.all", "users.all > all",
    }  # fmt: skip
    assert length_from(dag, "echo") == {"users"}
    assert length_from(dag, "even") == {"users.even"}
    assert dag.get_task("users.even").trigger_rule == "always"


def test_a_shaped_first_consumer_makes_way(dag: DAG) -> None:
    users = stream()
    shaped = users.output.filter(sources.is_even)
    expand("even", shaped)
    expand("again", shaped)
    assert edges(dag) == {
        "users > users.even", "users.even > even", "users > users.again", "users.again > again",
    }  # fmt: skip
    assert users.mapped_task_id is None, "it walks itself"
    expand("echo", users.output)
    assert users.mapped_task_id == "echo"


def test_combined_streams_are_readable_in_the_graph(dag: DAG) -> None:
    a, b = stream("a"), stream("b")
    expand("pair", a.output.zip(b.output.filter(sources.is_even), strict=True).map(lambda pair: pair[0]))
    expand("all", a.output.concat(b.output))
    assert edges(dag) == {
        "b > b.is_even", "a > a.zip_b.is_even", "b.is_even > a.zip_b.is_even", "a.zip_b.is_even > pair",
        "a > a.concat_b", "b > a.concat_b", "a.concat_b > all",
    }  # fmt: skip


def test_names_are_free(dag: DAG) -> None:
    a, b = stream("a"), stream("b")
    expand("one", a.output.concat(b.output))
    expand("two", a.output.concat(b.output))
    assert {"a.concat_b", "a.concat_b_2"} <= set(dag.task_dict)


def test_a_task_that_reads_a_shaped_stream_sees_it_unshaped(dag: DAG) -> None:
    users = stream()
    expand("even", users.output.filter(sources.is_even))

    @task
    def summarize(numbers: Any) -> None:
        pass

    summarize(users.output)
    assert edges(dag) == {"users > users.even", "users.even > even", "users > summarize"}


def test_expand_kwargs_and_taskflow(dag: DAG) -> None:
    users = stream()
    expand("echo", users.output)
    EchoOperator.partial(task_id="kwargs").expand_kwargs(users.output.map(sources.as_kwargs))

    @task
    def add(number: int) -> int:
        return number

    add.expand(number=users.output.flat_map(sources.twice))
    assert length_from(dag, "kwargs") == {"users.kwargs"}
    assert length_from(dag, "add") == {"users.add"}
