"""A task group over a stream as its DAG gets it: head, edges, values, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup, task, task_group, teardown
from airflow.serialization.serialized_objects import DagSerialization

from deferred_expand import DeferredExpandOperator
from deferred_expand.airflow_internals.grouping import SameIndexXComArg
from deferred_expand.exceptions import DefinitionError
from deferred_expand.operators.graph import StreamHeadCounted
from deferred_expand.workers.group_head import GroupHeadOperator
from tests.e2e import sources
from tests.e2e.operators import EchoOperator
from tests.unit.operators import ValueOperator

if TYPE_CHECKING:
    from collections.abc import Callable


def stream(task_id: str = "users", **arguments: Any) -> DeferredExpandOperator:
    given = {"source": sources.numbers, "source_kwargs": {"count": 3}, **arguments}
    return DeferredExpandOperator(task_id=task_id, **given)


@task_group
def chain(x: Any) -> Any:
    first = ValueOperator(task_id="first", value=x)
    return ValueOperator(task_id="second", value={"deep": [first.output]}).output


def complete(dag: DAG) -> DAG:
    dag.check_cycle()
    dag.resolve_template_files()
    return dag


def test_the_head_is_beside_the_group_and_what_follows_waits_for_it(dag: DAG) -> None:
    users = stream(retries=3)
    results = chain.expand(x=users.output)
    ValueOperator(task_id="after", value=results)
    ValueOperator(task_id="later", value=1).set_upstream(dag.get_task("after"))
    complete(dag)
    head = dag.get_task("users.stream")
    assert isinstance(head, GroupHeadOperator)
    assert head.retries == 3
    assert head.upstream_task_ids == {"users"}
    assert head.downstream_task_ids == {"after"}
    assert users.downstream_task_ids == {"users.stream", "chain.first"}
    assert users.definition.group is not None
    assert users.definition.group.leaves == ("chain.second",)
    assert users.definition.mapped_task_id == "chain.second"
    assert users.definition.ref("run").walker == ("users.stream", -1)
    complete(dag)
    assert len([name for name in dag.task_dict if name.startswith("users")]) == 2, "again does no harm"
    assert "users.stream" in DagSerialization.to_dict(dag)["dag"]["task_group"]["children"]


def test_the_head_is_in_the_same_task_group_as_its_stream(dag: DAG) -> None:
    with TaskGroup("team"):
        users = stream()
    chain.expand(x=users.output)
    complete(dag)
    head = dag.get_task("team.users.stream")
    assert users.definition.ref("run").walker == (head.task_id, -1)
    assert head.task_group is not None
    assert head.task_group.group_id == "team"


def test_a_task_with_the_id_of_the_head_is_refused(dag: DAG) -> None:
    users = stream()
    ValueOperator(task_id="users.stream", value=1)
    chain.expand(x=users.output)
    with pytest.raises(
        DefinitionError, match=r"'users.stream' has the id of the stream head beside .*'chain'"
    ):
        complete(dag)


def test_values_between_its_tasks_go_by_the_same_index(dag: DAG) -> None:
    results = chain.expand(x=stream().output)
    after = ValueOperator(task_id="after", value=results)
    complete(dag)
    second: Any = dag.get_task("chain.second")
    assert isinstance(second.value["deep"][0], SameIndexXComArg)
    assert type(after.value) is not SameIndexXComArg


@pytest.mark.parametrize("how", ["task", "shaped", "group", "reader"])
def test_beside_other_followers(dag: DAG, how: str) -> None:
    users = stream()
    output = users.output.map(sources.times_ten) if how == "shaped" else users.output
    if how == "reader":
        ValueOperator(task_id="reads", value=users.output)
    else:
        EchoOperator.partial(task_id="mapped").expand(value=output)
    chain.override(group_id="one").expand(x=users.output)
    if how == "group":
        chain.override(group_id="two").expand(x=users.output.map(sources.times_ten))
    complete(dag)
    groups = {t.task_id: t.definition.group for t in dag.tasks if isinstance(t, DeferredExpandOperator)}
    (streaming,) = [name for name, group in groups.items() if group and group.group_id == "one"]
    assert dag.get_task("one.first").upstream_task_ids == {streaming}
    assert f"{streaming}.stream" in dag.task_dict
    if how == "group":
        assert sum(group is not None for group in groups.values()) == 2


def test_a_group_that_was_first_gives_way_when_the_stream_is_shared(dag: DAG) -> None:
    users = stream()
    chain.expand(x=users.output.map(sources.times_ten))
    EchoOperator.partial(task_id="mapped").expand(value=users.output)
    complete(dag)
    (branch,) = dag.get_task("chain.first").upstream_task_ids
    assert branch.startswith("users.")
    assert users.definition.mapped_task_id == "mapped"
    assert dag.get_task(f"{branch}.stream").upstream_task_ids == {branch}


def inner(dag: DAG) -> None:
    @task_group
    def outer(x: Any) -> None:
        ValueOperator(task_id="first", value=x)
        chain.expand(x=[1, 2])

    outer.expand(x=stream().output)


def within(dag: DAG) -> None:
    users = stream()

    @task_group
    def outer(y: Any) -> None:
        ValueOperator(task_id="first", value=y)
        chain.expand(x=users.output)

    outer.expand(y=[1, 2])


def always(dag: DAG) -> None:
    @task_group
    def group(x: Any) -> None:
        ValueOperator(task_id="first", value=x, trigger_rule="always")

    group.expand(x=stream().output)


def as_a_whole(dag: DAG) -> None:
    users = stream()

    @task_group
    def group(x: Any) -> None:
        ValueOperator(task_id="first", value=[x, users.output])

    group.expand(x=users.output)


def windows(dag: DAG) -> None:
    chain.expand(x=stream().output.window(5))


def two_streams(dag: DAG) -> None:
    @task_group
    def group(x: Any, y: Any) -> None:
        ValueOperator(task_id="first", value=[x, y])

    group.expand(x=stream("a").output, y=stream("b").output)


def no_literal(dag: DAG) -> None:
    @task_group
    def group(x: Any, y: Any) -> None:
        ValueOperator(task_id="first", value=[x, y])

    group.expand(x=stream().output, y=[1, 2])


def plain_reference(dag: DAG) -> None:
    from airflow.sdk import XComArg

    chain.expand(x=XComArg(stream()))


def unknown_results(dag: DAG) -> None:
    chain.expand(x=stream(results_of="third").output)


def two_leaves(dag: DAG) -> None:
    @task_group
    def group(x: Any) -> None:
        ValueOperator(task_id="first", value=x)
        ValueOperator(task_id="second", value=x)

    users = stream(source=sources.search, source_kwargs={})
    group.expand(x=users.output)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (inner, "'outer'.*has the mapped task group 'outer.chain' in it"),
        (within, "'outer.chain' is expanded over a stream, and within another"),
        (always, "trigger.rule.*'always'"),  # by Airflow itself, mostly
        (as_a_whole, "'group.first' is given the stream as a whole"),
        (windows, "'chain' is expanded over windows"),
        (two_streams, "by more than one argument"),
        (no_literal, "over 'y' as well"),
        (plain_reference, "must be expanded over 'users'.output itself"),
        (unknown_results, "results_of='third' is no task of task group 'chain'.*'chain.second'"),
        (two_leaves, "ends with 'group.first', 'group.second': say results_of="),
    ],
)
def test_what_cannot_grow_is_refused(dag: DAG, wrong: Callable[[DAG], None], message: str) -> None:
    def parse() -> None:
        wrong(dag)
        complete(dag)

    with pytest.raises(ValueError, match=message) as refused:
        parse()
    ours = "DAG 'my_dag', task '"
    assert wrong is always or (isinstance(refused.value, DefinitionError) and ours in str(refused.value))


def test_it_may_have_plain_groups_teardowns_and_what_does_nothing(dag: DAG) -> None:
    @task_group
    def group(x: Any) -> None:
        @task
        def first(x: Any) -> Any:
            return x

        @task_group
        def nested(y: Any) -> Any:
            return ValueOperator(task_id="deep", value=y).output

        @teardown
        def clean_up() -> None: ...

        begun = first(x)
        nested(begun) >> EmptyOperator(task_id="end") >> clean_up()

    users = stream()
    group.expand_kwargs(users.output.map(sources.as_kwargs))
    complete(dag)
    described = users.definition.group
    assert described is not None
    assert described.leaves == ("group.end",)
    assert set(described.task_ids) == {"group.first", "group.nested.deep", "group.end", "group.clean_up"}
    deep: Any = dag.get_task("group.nested.deep")
    assert isinstance(deep.value, SameIndexXComArg)


def test_a_rule_that_counts_the_head_is_warned_of(dag: DAG) -> None:
    results = chain.expand(x=stream().output)
    ValueOperator(task_id="after", value=results, trigger_rule="one_success")
    with pytest.warns(
        StreamHeadCounted, match="'after' has trigger_rule='one_success', for which stream head"
    ):
        complete(dag)
