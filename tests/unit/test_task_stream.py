"""``@task.stream``, as a DAG file uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, setup, task, task_group, teardown

from deferred_expand import DefinitionError, Page, stream
from deferred_expand.airflow_internals.sdk import TriggerRule
from deferred_expand.operators.reference import StreamReference
from deferred_expand.operators.task_stream import StreamDecoratedOperator
from deferred_expand.sources.arguments import POSITIONAL
from tests.e2e.operators import EchoOperator
from tests.unit.graphs import edges

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.filterwarnings("error")


@stream
async def users(url: str, size: int = 10, cursor: Any = None) -> AsyncIterator[Page]:
    """Users of the API."""
    yield Page([url] * size)


def expand(over: Any, task_id: str = "echo") -> Any:
    return EchoOperator.partial(task_id=task_id).expand(value=over)


def test_calling_it_adds_a_task_and_gives_its_stream(dag: DAG) -> None:
    given = users("{{ params.url }}", size=2)
    expand(given.filter(lambda user: user["active"]))
    assert isinstance(given, StreamReference)
    operator: Any = dag.get_task("users")
    assert isinstance(operator, StreamDecoratedOperator)
    assert operator.source_kwargs == {"url": "{{ params.url }}", "size": 2}
    assert operator.doc_md == "Users of the API."
    definition = operator.definition
    assert (definition.in_dag_file, definition.resumable, definition.takes_context) == (True, True, True)
    assert [step.kind for step in definition.steps] == ["filter"]
    assert edges(dag) == {"users > echo"}


def test_the_decorator_of_the_provider_is_the_same(dag: DAG) -> None:
    @task.stream(max_pending=7, retries=3, batch_size=5)
    def numbers(count: int) -> Iterator[int]:
        yield from range(count)

    expand(numbers(3))
    operator: Any = dag.get_task("numbers")
    assert isinstance(operator, StreamDecoratedOperator)
    assert (operator.max_pending, operator.retries, operator.batch_size) == (7, 3, 5)
    assert not operator.definition.resumable


def test_a_source_that_needs_a_cursor_is_not_given_one(dag: DAG) -> None:
    @stream
    async def needs(url: str, cursor: Any, results: Any) -> AsyncIterator[int]:
        yield 1

    expand(needs("here"))
    operator: Any = dag.get_task("needs")
    assert operator.source_kwargs == {"url": "here"}
    with pytest.raises(DefinitionError, match="task 'needs': 'cursor' is given by whoever walks the stream"):
        needs("here", cursor=3, results=None)


def test_arguments_without_a_name(dag: DAG) -> None:
    @stream
    def several(first: str, *rest: str, last: str = "") -> Iterator[str]:
        yield from (first, *rest, last)

    expand(several("a", "b", "c", last="d"))
    operator: Any = dag.get_task("several")
    assert operator.source_kwargs == {POSITIONAL: ["a", "b", "c"], "last": "d"}


def test_arguments_that_do_not_fit(dag: DAG) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'url'"):
        users()
    with pytest.raises(TypeError, match="unexpected keyword argument 'uri'"):
        users("a", uri="x")


def test_context_keys_are_parameters_that_nobody_gives(dag: DAG) -> None:
    @stream
    def daily(ds: Any, params: Any, ti: Any = None, **context: Any) -> Iterator[str]:
        yield ds

    expand(daily())
    operator: Any = dag.get_task("daily")
    assert operator.source_kwargs == {}


def test_the_output_of_another_task_is_an_argument(dag: DAG) -> None:
    @task
    def token() -> str:
        return "t"

    @stream
    def rows(token: str) -> Iterator[str]:
        yield token

    expand(rows(token()))
    assert edges(dag) == {"token > rows", "rows > echo"}


def test_default_args_by_the_name_of_a_parameter() -> None:
    with DAG("my_dag", schedule=None, default_args={"url": "from the DAG", "retries": 4}) as dag:
        expand(users())
    operator: Any = dag.get_task("users")
    assert (operator.source_kwargs, operator.retries) == ({"url": "from the DAG"}, 4)


def test_override_groups_and_calling_it_twice(dag: DAG) -> None:
    expand(users("a"))
    expand(users("b"), "echo_b")
    expand(users.override(task_id="others", max_pending=3)("c"), "echo_c")

    @task_group
    def group() -> None:
        expand(users("d"))

    group()
    assert edges(dag) == {
        "users > echo", "users__1 > echo_b", "others > echo_c", "group.users > group.echo",
    }  # fmt: skip
    others: Any = dag.get_task("others")
    assert others.max_pending == 3


def test_conditions_setup_and_teardown(dag: DAG) -> None:
    @task.run_if(lambda context: False)
    @task.stream
    def sometimes() -> Iterator[int]:
        yield 1

    @teardown
    @task.stream
    def afterwards() -> Iterator[int]:
        yield 1

    @setup
    @task.stream
    def before() -> Iterator[int]:
        yield 1

    for number, source in enumerate((sometimes, afterwards, before)):
        expand(source(), f"echo_{number}")
    tasks: Any = dag.task_dict
    assert tasks["sometimes"]._pre_execute_hook is not None
    assert tasks["afterwards"].is_teardown
    assert tasks["afterwards"].trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    assert tasks["before"].is_setup


@pytest.mark.parametrize(
    "mapped",
    [
        lambda: users.expand(url=["a"]),  # type: ignore[attr-defined]
        lambda: users.partial(size=3),  # type: ignore[attr-defined]
        lambda: users.expand_kwargs([{"url": "a"}]),  # type: ignore[attr-defined]
    ],
)
def test_it_cannot_be_mapped(dag: DAG, mapped: Any) -> None:
    with pytest.raises(DefinitionError, match="DAG 'my_dag', task 'users': .*flat_map"):
        mapped()


def test_it_cannot_be_in_a_mapped_group(dag: DAG) -> None:
    @task_group
    def group(url: str) -> None:
        users(url)

    with pytest.raises(DefinitionError, match="task 'group.users': .*flat_map"):
        group.expand(url=["a", "b"])


def test_it_has_no_multiple_outputs(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match="task 'users': a stream has no multiple_outputs"):
        users.override(multiple_outputs=True)("a")

    @task.stream(multiple_outputs=True)
    def many() -> Iterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="task 'many': a stream has no multiple_outputs"):
        many()


def test_another_user_cannot_walk_it(dag: DAG) -> None:
    expand(users.override(run_as_user="someone")("a"))
    with pytest.raises(DefinitionError, match="task 'users': run_as_user='someone'.*installed"):
        dag.resolve_template_files()


@pytest.mark.usefixtures("without_dag_files")
def test_where_triggerers_load_no_dag_files_it_is_refused(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match="task 'users': .*load_dags"):
        users("a")
