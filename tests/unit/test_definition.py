"""What a DAG says of a stream reaches another process as JSON, and its functions are found there again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from deferred_expand import DeferredExpandOperator
from deferred_expand.definition import StreamDefinition
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.shaping.steps import find_steps
from deferred_expand.sources.importing import DagPlace, ImportPath, find_function
from tests.e2e import sources
from tests.e2e.operators import EchoOperator
from tests.unit.operators import PagingOperator

if TYPE_CHECKING:
    from airflow.sdk import DAG


def far_away(stream: DeferredExpandOperator) -> StreamDefinition:
    """In another process."""
    arrived = StreamDefinition.from_json(json.loads(json.dumps(stream.definition.to_json())))
    assert arrived == stream.definition
    return arrived


def test_importable_functions_go_by_their_path(dag: DAG) -> None:
    users = DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 3})
    EchoOperator.partial(task_id="echo").expand(value=users.output.filter(sources.is_even))
    arrived = far_away(users)
    assert arrived.source == ImportPath("tests.e2e.sources:numbers")
    assert find_function(arrived.source) is sources.numbers
    assert [(step.kind, step.function) for step in find_steps(arrived.steps)] == [("filter", sources.is_even)]
    assert (arrived.mapped_task_id, arrived.item_steps) == ("echo", ())


@pytest.mark.usefixtures("without_dag_files")
def test_functions_of_the_dag_file_go_by_their_place_in_the_dag(dag: DAG) -> None:
    def double(number: int) -> int:
        return 2 * number

    def halve(number: int) -> float:
        return number / 2

    users = DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 3})
    shaped = users.output.filter(sources.is_even).map(double).map(halve)
    EchoOperator.partial(task_id="echo").expand(value=shaped)
    arrived = far_away(users)
    assert [step.function for step in arrived.item_steps] == [
        DagPlace("my_dag", "users", number, f"{name}") for number, name in ((1, "double"), (2, "halve"))
    ]
    assert [step.function for step in find_steps(arrived.item_steps, dag)] == [double, halve]
    with pytest.raises(
        SourceNotImportable, match="DAG 'my_dag', task 'users': only the DAG file has 'double'"
    ):
        find_steps(arrived.item_steps)


@pytest.mark.usefixtures("without_dag_files")
def test_an_operator_of_the_dag_file_is_walked_where_the_file_is(dag: DAG) -> None:
    class LocalOperator(PagingOperator):
        pass

    users = DeferredExpandOperator(task_id="users", source=LocalOperator, source_kwargs={"pages": 1})
    EchoOperator.partial(task_id="echo").expand(value=users.output.map(lambda item: item))
    arrived = far_away(users)
    assert isinstance(arrived.source, DagPlace)
    assert arrived.hops_on_worker
    assert find_function(arrived.source, dag) is LocalOperator
    assert [step.kind for step in find_steps(arrived.steps, dag)] == ["map"]


def test_a_stream_made_of_others_names_them_as_they_are_when_the_dag_is_complete(dag: DAG) -> None:
    streams: Any = [
        DeferredExpandOperator(task_id=name, source=sources.numbers, source_kwargs={"count": 3})
        for name in ("a", "b")
    ]
    both = streams[0].output.zip(streams[1].output)
    EchoOperator.partial(task_id="pairs").expand(value=both)
    EchoOperator.partial(task_id="ones").expand(value=streams[1].output)
    arrived = far_away(both.stream)
    assert arrived.parents == (("a", None, None), ("b", "ones", None))
    assert [ref.run_id for ref in arrived.parent_refs("today")] == ["today", "today"]
