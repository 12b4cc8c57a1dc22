"""Wrong use fails when the DAG is parsed, and names the DAG, the task and the remedy."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization

from deferred_expand import DefinitionError
from deferred_expand.operators.graph import PlacesHeldByHeads, StreamHeadCounted
from deferred_expand.operators.mapped import StreamDecoratedMappedOperator, StreamMappedOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator, StartsFromTriggerOperator
from tests.unit.graphs import stream


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "no.such:source"}, "cannot be imported"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number of items, 1 or more"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_interval": 0}, "batch_interval is 0; it must be a number of seconds above 0"),
        ({"batch_interval": "5"}, "batch_interval is '5'"),
        ({"max_pending": 0}, "max_pending is 0; it must be a whole number of items, 1 or more"),
        ({"max_items": True}, "max_items is True; it must be a whole number of items, 1 or more"),
        ({"rate_limit": 0}, "rate_limit is 0; it must be a number of items per second above 0"),
        ({"source_retries": -1}, "source_retries is -1; it must be a whole number of retries, 0 or more"),
        ({"source_kwargs": {"count": threading.Lock()}}, r"source_kwargs\['count'\] cannot be sent"),
        ({"source_kwargs": {"size": 3}}, "do not fit source 'tests.e2e.sources:numbers'"),
        ({"source_kwargs": {}}, "missing a required argument: 'count'"),
        ({"source_kwargs": ["count"]}, "source_kwargs must be a dict"),
        (
            {"show": ["count", "url"]},
            "show names 'url'; it must be a list of names that are in",
        ),
        ({"show": "count"}, "show names count; it must be a list"),
    ],
)
def test_wrong_arguments(dag: DAG, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=f"DAG 'my_dag', task 'users': .*{message}"):
        stream(**arguments)


@pytest.mark.parametrize("limit", ["max_active_tis_per_dag", "max_active_tis_per_dagrun"])
def test_a_limit_that_leaves_no_place_beside_the_head(dag: DAG, limit: str) -> None:
    with pytest.raises(DefinitionError, match=f"{limit}=1.*a pool with one slot"):
        EchoOperator.partial(task_id="echo", **{limit: 1}).expand(value=stream().output)
    EchoOperator.partial(task_id="two", **{limit: 2}).expand(value=stream("others").output)


def test_another_mapped_argument_must_be_a_literal_of_length_one(dag: DAG) -> None:
    echo = EchoOperator.partial(task_id="echo")
    with pytest.raises(DefinitionError, match="over 'note' as well.*literal with one element"):
        echo.expand(value=stream("a").output, note=["x", "y"])
    users = stream("b")
    with pytest.raises(DefinitionError, match="by more than one argument"):
        EchoOperator.partial(task_id="both").expand(value=users.output, note=users.output)
    EchoOperator.partial(task_id="one").expand(value=stream("c").output, note=["x"])


def test_a_key_of_a_stream(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match=r"\['key'\] of a stream is not supported: use .map()"):
        stream().output["key"]


@pytest.mark.usefixtures("without_dag_files")
def test_a_source_that_only_the_dag_file_has(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match="has no name.*Move the source to a module.* load_dags is True"):
        stream(source=lambda count: [])


@pytest.mark.parametrize("kind", ["filter", "flat_map"])
@pytest.mark.usefixtures("without_dag_files")
def test_what_decides_the_number_of_items_must_be_importable(dag: DAG, kind: str) -> None:
    shaped = getattr(stream().output, kind)(lambda item: item)
    with pytest.raises(DefinitionError, match=rf"{kind}\(<lambda>\) needs a function that a triggerer can"):
        EchoOperator.partial(task_id="echo").expand(value=shaped)


def test_a_function_that_is_nowhere(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match=r"task 'users': .map\(\): source 'no.such:name' cannot be"):
        stream().output.map("no.such:name")


def test_only_streams_can_be_combined(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match=r".zip\(\) takes outputs of .*Operators, not \[1\]"):
        stream().output.zip([1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [{"max_pending": 2}, {"source": sources.search, "source_kwargs": {}}],
    ids=["pending", "results"],
)
def test_what_needs_instances_of_the_streams_own_items(dag: DAG, arguments: dict[str, Any]) -> None:
    users = stream(**arguments)
    EchoOperator.partial(task_id="echo").expand(value=users.output.map(str))
    dag.resolve_template_files()
    EchoOperator.partial(task_id="other").expand(value=users.output.map(repr))
    with pytest.raises(DefinitionError, match="needs a task that is expanded over 'users'.output itself"):
        dag.resolve_template_files()


@pytest.mark.parametrize(
    "rule",
    [
        "one_success",
        "one_done",
        "all_skipped",
        "all_failed",
        "none_failed_min_one_success",
        "all_done_min_one_success",
    ],
)
@pytest.mark.parametrize("by_output", [True, False])
def test_trigger_rules_that_count_the_head_are_warned_of(dag: DAG, rule: str, by_output: bool) -> None:
    echo = EchoOperator.partial(task_id="echo").expand(value=stream().output)
    if by_output:
        EmptyOperator(task_id="after", trigger_rule=rule)
        echo.output >> dag.get_task("after")
    else:
        echo >> EmptyOperator(task_id="after", trigger_rule=rule)
    with pytest.warns(StreamHeadCounted, match=f"'after' has trigger_rule='{rule}'"):
        dag.resolve_template_files()


def test_other_trigger_rules_are_not_warned_of(dag: DAG) -> None:
    echo = EchoOperator.partial(task_id="echo").expand(value=stream().output)
    echo >> EmptyOperator(task_id="after", trigger_rule="all_done")
    with warnings.catch_warnings():
        warnings.simplefilter("error", StreamHeadCounted)
        dag.resolve_template_files()


@pytest.mark.parametrize(("limit", "active_runs", "is_warned"), [(2, 2, True), (2, 16, True), (3, 2, False)])
def test_heads_that_can_hold_all_places_are_warned_of(limit: int, active_runs: int, is_warned: bool) -> None:
    with DAG("my_dag", schedule=None, max_active_runs=active_runs) as dag:
        echo = EchoOperator.partial(task_id="echo", max_active_tis_per_dag=limit)
        echo.expand(value=stream().output)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dag.resolve_template_files()
    told = [str(w.message) for w in caught if w.category is PlacesHeldByHeads]
    assert len(told) == is_warned
    assert all("'my_dag'" in text and "'echo'" in text and f"={limit}" in text for text in told)


def test_the_scheduler_does_not_end_the_head_in_its_stead(dag: DAG) -> None:
    empty = EmptyOperator.partial(task_id="empty").expand(doc=stream("a").output)
    starts = StartsFromTriggerOperator.partial(task_id="starts").expand(value=stream("b").output)
    assert not empty._is_empty
    assert not starts.start_from_trigger


def test_only_the_task_over_the_stream_changes(dag: DAG) -> None:
    users = stream()
    over = EchoOperator.partial(task_id="over").expand(value=users.output)
    native = EchoOperator.partial(task_id="native").expand(value=[1, 2])
    users >> native
    assert type(over) is StreamMappedOperator
    assert not isinstance(native, StreamMappedOperator)


def test_it_serializes_as_any_mapped_task_over_an_xcom(dag: DAG) -> None:
    @task
    def add(x: int) -> int:
        return x

    BashOperator.partial(task_id="classic").expand(bash_command=stream("a").output)
    add.expand(x=stream("b").output)
    BashOperator.partial(task_id="kwargs").expand_kwargs(stream("c").output)
    assert type(dag.get_task("add")) is StreamDecoratedMappedOperator

    again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    for task_id, upstream in (("classic", "a"), ("add", "b"), ("kwargs", "c")):
        assert again.get_task(task_id).upstream_task_ids == {upstream}
        assert [op.task_id for op in again.get_task(task_id).iter_mapped_dependencies()] == [upstream]
