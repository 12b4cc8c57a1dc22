"""``iterate`` as the DAG file has it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, BaseBranchOperator, BaseOperator, task, task_group
from airflow.serialization.serialized_objects import DagSerialization

from deferred_expand import DefinitionError, SourceRetry, iterate
from deferred_expand.airflow_internals import state_store
from deferred_expand.operators import iterate as iterate_module
from deferred_expand.streams.units import BATCH, ITEM
from deferred_expand.workers.head import StreamHeadOperator
from deferred_expand.workers.iterable import IterableOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator
from tests.unit.graphs import edges, expand, length_from, stream

pytestmark = pytest.mark.skipif(not state_store.has_state_store(), reason="there is no task state store")


@task
def numbers() -> list[int]:
    return [1, 2]


@task
def double(value: int, other: int = 0) -> int:
    return 2 * value


def test_the_scheduler_sees_as_many_instances_as_asked_for_and_no_mapping_over_what_is_upstream(
    dag: DAG,
) -> None:
    given = numbers()
    iterate(double, instances=3).over(value=given)
    iterate(BashOperator.partial(task_id="bash")).over(bash_command=given)
    serialized = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    for name, count in (("double", 3), ("bash", 1)):
        found = serialized.get_task(name)
        assert found.get_parse_time_mapped_ti_count() == count
        assert found.upstream_task_ids == {"numbers"}
    upstream = dag.get_task("numbers")
    assert not list(upstream.iter_mapped_dependants())


def test_the_instance_has_its_retries_and_the_items_their_time_limit(dag: DAG) -> None:
    told: Any = [].append
    partial = BashOperator.partial(
        task_id="bash",
        retries=3,
        queue="big",
        execution_timeout=timedelta(seconds=5),
        on_failure_callback=told,
    )
    mapped: Any = iterate(partial).over(bash_command=["true"])
    runs = mapped.make_instance()
    assert isinstance(runs, IterableOperator)
    assert (runs.retries, runs.queue, runs.execution_timeout) == (3, "big", None)
    assert runs.on_failure_callback == [told]
    assert mapped.partial_kwargs["execution_timeout"] == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency is 0; it must be a whole number of items, 1 or more"),
        ({"concurrency": True}, "concurrency is True"),
        ({"instances": 0}, "instances is 0; it must be a whole number, 1 or more"),
        ({"tolerate": -1}, "tolerate is -1; it must be a number of items, 0 or more, or a share like '5%'"),
        ({"tolerate": "lots"}, "tolerate is 'lots'"),
        ({"tolerate": "101%"}, "tolerate is '101%'"),
        ({"checkpoint": -1}, "checkpoint is -1; it must be a number of seconds, 0 or more"),
        ({"retry": 3}, "retry is 3; it must be a SourceRetry"),
    ],
)
def test_wrong_options_are_refused(dag: DAG, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(message)) as refused:
        iterate(double, **options)
    assert "DAG 'my_dag', task 'double'" in str(refused.value)


def test_right_ones_are_not(dag: DAG) -> None:
    iterate(double, concurrency=1, tolerate="2.5%", retry=SourceRetry(), checkpoint=0).over(value=[1])


class Branch(BaseBranchOperator):
    """Chooses."""


@pytest.mark.parametrize(
    "refused",
    [
        Branch.partial(task_id="it"),
        ShortCircuitOperator.partial(task_id="it", python_callable=print),
        HITLOperator.partial(task_id="it", subject="?", options=["yes"]),
        TriggerDagRunOperator.partial(task_id="it", trigger_dag_id="other"),
        task.branch(task_id="it")(lambda value: value),
        task.short_circuit(task_id="it")(lambda value: value),
    ],
    ids=lambda refused: getattr(refused, "operator_class", type(refused)).__name__,
)
def test_operators_that_mean_something_to_other_tasks_are_refused(dag: DAG, refused: Any) -> None:
    with pytest.raises(DefinitionError, match="cannot be iterated, as") as error:
        iterate(refused)
    assert "task 'it'" in str(error.value)
    assert "use .expand()" in str(error.value)


@pytest.mark.parametrize("what", [numbers, "a text", EmptyOperator, print])
def test_what_is_no_task_is_refused(dag: DAG, what: Any) -> None:
    with pytest.raises(DefinitionError, match=r"iterate\(\) takes a @task function") as error:
        iterate(what() if what is numbers else what)
    assert "DAG 'my_dag'" in str(error.value)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (lambda: iterate(double).over(), "no arguments to iterate over"),
        (lambda: iterate(double).over(wrong=[1]), "got an unexpected keyword argument"),
        (lambda: iterate(double.partial(value=1)).over(value=[1]), "mapping already partial"),
        (lambda: iterate(double).over_kwargs([1]), "expected XComArg or list"),
        (lambda: iterate(double).over_kwargs("text"), "expected XComArg or list"),
        (
            lambda: iterate(BashOperator.partial(task_id="b", env={})).over(env=[{}]),
            "unmappable or already specified",
        ),
    ],
)
def test_what_expand_refuses_is_refused(dag: DAG, over: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        over()


def test_results_cannot_be_mapped_over(dag: DAG) -> None:
    results = iterate(double).over(value=[1, 2])
    message = r"task 'double': the scheduler does not know its results one by one.*@task def results"
    with pytest.raises(DefinitionError, match=message):
        double.override(task_id="again").expand(value=results)
    with pytest.raises(DefinitionError, match=message):
        double.override(task_id="once_more").expand(value=results.map(str))
    with pytest.raises(DefinitionError, match=message):
        BashOperator.partial(task_id="bash").expand_kwargs(results)


def test_nor_by_a_task_group(dag: DAG) -> None:
    @task_group
    def group(value: Any) -> None:
        double(value)

    with pytest.raises(DefinitionError, match="nothing can be mapped over them"):
        group.expand(value=iterate(double).over(value=[1, 2]))


def test_results_can_be_read_and_iterated_over(dag: DAG) -> None:
    results = iterate(double).over(value=[1, 2])
    iterate(double.override(task_id="again")).over(value=results)

    @task
    def read(of: Any) -> int:
        return len(of)

    read(results)
    assert dag.get_task("double").downstream_task_ids == {"again", "read"}
    DagSerialization.serialize_dag(dag)


def test_without_a_task_state_store_it_is_refused(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterate_module, "has_state_store", lambda: False)
    with pytest.raises(DefinitionError, match=r"needs Airflow 3\.3"):
        iterate(double)


def test_an_operator_of_ones_own_is_iterated(dag: DAG) -> None:
    class Mine(BaseOperator):
        def __init__(self, *, value: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.value = value

    mapped: Any = iterate(Mine.partial(task_id="mine")).over(value=[1, 2])
    assert mapped.output.operator is mapped


def is_by_batch(dag: DAG, task_id: str) -> bool:
    task: Any = dag.get_task(task_id)
    return bool(task.definition.unit == BATCH)


def test_over_a_stream_there_is_a_head_and_an_instance_for_each_batch(dag: DAG) -> None:
    users = stream()
    mapped: Any = iterate(EchoOperator.partial(task_id="echo"), concurrency=3).over(value=users.output)
    assert edges(dag) == {"users > echo"}
    assert length_from(dag, "echo") == {"users"}, "it grows with the stream"
    assert users.definition.unit == BATCH
    assert isinstance(mapped.make_head(), StreamHeadOperator)
    assert isinstance(mapped.make_instance(), IterableOperator)
    assert stream(task_id="other").definition.unit == ITEM


def test_over_a_stream_that_others_follow_it_has_one_of_its_own(dag: DAG) -> None:
    users = stream()
    expand("echo", users.output)
    iterate(EchoOperator.partial(task_id="items")).over(value=users.output)
    assert edges(dag) == {"users > echo", "users > users.items", "users.items > items"}
    assert users.definition.unit == ITEM
    assert is_by_batch(dag, "users.items")


def test_over_a_stream_it_makes_way_for_those_that_come_later(dag: DAG) -> None:
    users = stream()
    iterate(double).over(value=users.output.filter(sources.is_even))
    expand("echo", users.output)
    reads: Any = double.override(task_id="reads")
    reads(users.output)
    assert edges(dag) == {
        "users > echo", "users > users.double", "users.double > double", "users > reads",
    }  # fmt: skip
    assert is_by_batch(dag, "users.double")
    assert users.mapped_task_id == "echo"


def test_instances_are_for_lists(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match=r"task 'double': instances= deals out a list; of a stream"):
        iterate(double, instances=2).over(value=stream().output)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max_pending", {"max_pending": 5}),
        ("max_items", {"max_items": 5}),
        ("results", {"source": sources.search, "source_kwargs": {}}),
    ],
)
def test_what_counts_instances_is_refused(dag: DAG, name: str, options: dict[str, Any]) -> None:
    users = stream(**options)
    iterate(double).over(value=users.output)
    with pytest.raises(DefinitionError, match=f"task 'users': {name} counts task instances"):
        users.when_parsed()


def test_results_over_a_stream_cannot_be_mapped_over_either(dag: DAG) -> None:
    results = iterate(double).over(value=stream().output)
    with pytest.raises(DefinitionError, match="nothing can be mapped over them"):
        double.override(task_id="again").expand(value=results)
    double.override(task_id="reads")(results)
