"""Edges by hand, whole lists beside items, and what waits for itself: as natively, or refused when parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Label, TaskGroup, XComArg, chain, task, task_group
from airflow.serialization.serialized_objects import DagSerialization

from deferred_expand import DeferredExpandOperator, DefinitionError
from deferred_expand.operators.graph import StreamHeadCounted
from tests.e2e import sources
from tests.e2e.operators import EchoOperator
from tests.unit.graphs import edges, expand, stream

if TYPE_CHECKING:
    from collections.abc import Callable


@task
def collect(numbers: Any) -> list[Any]:
    return list(numbers)


# -- edges by hand -----------------------------------------------------------------------------------

BY_HAND: dict[str, Callable[[Any, Any, Any], Any]] = {
    "list >> ": lambda create, users, insert: [create, users] >> insert,
    "<<": lambda create, users, insert: insert << users << create,
    "<< list": lambda create, users, insert: insert << [users, create],
    "set_upstream": lambda create, users, insert: insert.set_upstream([users, create]),
    "set_downstream": lambda create, users, insert: users.set_downstream(insert),
    "chain": lambda create, users, insert: chain([create, users], insert),
    "chain of three": lambda create, users, insert: chain(create, users, insert),
    "label": lambda create, users, insert: insert << Label("x") << users,
    "label >>": lambda create, users, insert: users >> Label("x") >> insert,
    "output <<": lambda create, users, insert: insert.output << users,
    "output >>": lambda create, users, insert: users.output >> insert.output,
    "twice": lambda create, users, insert: (users >> insert, users >> insert),
}


@pytest.mark.parametrize("by_hand", BY_HAND.values(), ids=BY_HAND.keys())
@pytest.mark.parametrize("taskflow", [False, True])
def test_an_edge_by_hand_beside_the_expansion_changes_nothing(
    dag: DAG, by_hand: Callable[[Any, Any, Any], Any], taskflow: bool
) -> None:
    create, users = EmptyOperator(task_id="create"), stream()
    made: Any = collect.expand(numbers=users.output) if taskflow else None
    insert = made.operator if taskflow else expand("insert", users.output)
    by_hand(create, users, insert)
    name = insert.task_id
    assert set(dag.task_dict) == {"create", "users", name}
    assert edges(dag) - {"create > users", f"create > {name}"} == {f"users > {name}"}
    assert users.mapped_task_id == name


@pytest.mark.parametrize("over", ["group << users", "users >> group", "chain", "within the group"])
def test_the_same_with_a_task_group(dag: DAG, over: str) -> None:
    users = stream()
    with TaskGroup("group") as group:
        expand("insert", users.output)
        if over == "within the group":
            users >> dag.get_task("group.insert")
    if over == "group << users":
        group << users
    elif over == "users >> group":
        users >> group
    elif over == "chain":
        chain(users, group)
    assert edges(dag) == {"users > group.insert"}
    assert users.mapped_task_id == "group.insert"


def test_the_same_with_a_task_that_another_stream_made_way_for(dag: DAG) -> None:
    users = stream()
    first, second = expand("first", users.output), expand("second", users.output)
    users >> [first, second]
    assert edges(dag) - {"users > second"} == {
        "users > first", "users > users.second", "users.second > second",
    }  # fmt: skip
    branch: Any = dag.get_task("users.second")
    assert (users.mapped_task_id, branch.mapped_task_id) == ("first", "second")


# -- who would wait for itself -----------------------------------------------------------------------


def test_the_list_beside_the_item(dag: DAG) -> None:
    users = stream()
    with pytest.raises(DefinitionError, match=r"DAG 'my_dag', task 'users': .*'share'.*each item would wait"):
        EchoOperator.partial(task_id="share", templated=users.output).expand(value=users.output)


def test_the_list_beside_the_item_within_something(dag: DAG) -> None:
    users = stream()
    with pytest.raises(DefinitionError, match="let a task return the whole list"):
        EchoOperator.partial(task_id="share", templated={"all": [users.output]}).expand(
            value=users.output.map(str)
        )


def test_the_remedy_is_an_ordinary_expansion(dag: DAG) -> None:
    everyone = collect(stream().output)
    EchoOperator.partial(task_id="share", templated=everyone).expand(value=everyone)
    assert edges(dag) == {"users > collect", "collect > share"}


@pytest.mark.parametrize("shaped", [False, True])
def test_a_task_that_the_mapped_one_waits_for_reads_the_stream(dag: DAG, shaped: bool) -> None:
    users = stream()
    everyone = collect(users.output)
    if shaped:  # it makes way: the stream's own task walks, and nobody waits for himself
        EchoOperator.partial(task_id="share", templated=everyone).expand(value=users.output.map(str))
        assert "users.share > share" in edges(dag)
        return
    EchoOperator.partial(task_id="share", templated=everyone).expand(value=users.output)
    with pytest.raises(DefinitionError, match="'share'.*waits for task 'collect', which waits for the end"):
        dag.resolve_template_files()


def test_a_task_further_up_waits_for_what_follows_the_stream(dag: DAG) -> None:
    users = stream()
    first = expand("first", users.output)
    second = expand("second", users.output.concat(stream("others").output))
    second >> EmptyOperator(task_id="between") >> first
    with pytest.raises(DefinitionError, match="'first'.*waits for task 'second'"):
        dag.resolve_template_files()


def test_the_other_way_round_nobody_waits_for_himself(dag: DAG) -> None:
    users = stream()
    first, second = expand("first", users.output), expand("second", users.output)
    first >> second
    collect(users.output) >> EmptyOperator(task_id="after")
    assert "first > second" in edges(dag)


# -- the handle is not the stream --------------------------------------------------------------------


def test_xcom_arg_of_the_task_is_no_stream(dag: DAG) -> None:
    users = stream()
    with pytest.raises(DefinitionError, match=r"must be expanded over 'users'.output itself.*XComArg"):
        expand("insert", XComArg(users))


def test_nor_is_what_is_made_of_it(dag: DAG) -> None:
    users = stream()
    with pytest.raises(DefinitionError, match=r"must be expanded over 'users'.output itself.*XComArg"):
        expand("insert", XComArg(users).map(str))


@pytest.mark.parametrize("key", ["return_value", "other"])
def test_xcom_arg_of_the_task_is_no_list_of_its_items(dag: DAG, key: str) -> None:
    users = stream()
    with pytest.raises(DefinitionError, match=r"task 'collect' is given .*Give it 'users'.output"):
        collect({"all": [XComArg(users, key=key)]})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ti.xcom_pull('users') }}",
        '{{ ti.xcom_pull(task_ids="users") }}',
        "{{ task_instance.xcom_pull(task_ids=['users'])[0] }}",
        "echo {{ ti.xcom_pull( 'users' ) | length }}",
    ],
)
def test_a_template_that_pulls_it(dag: DAG, template: str) -> None:
    expand("insert", stream().output)
    BashOperator(task_id="report", bash_command="true", env={"USERS": template})
    with pytest.raises(
        DefinitionError, match="env of task 'report' pulls the XCom of 'users'.*'users'.output"
    ):
        dag.resolve_template_files()


@pytest.mark.parametrize(
    "template", ["{{ ti.xcom_pull('others') }}", "{{ ti.xcom_pull('users', key='note') }}", "users"]
)
def test_other_pulls_are_left_alone(dag: DAG, template: str) -> None:
    expand("insert", stream().output)
    BashOperator(task_id="report", bash_command=template)
    dag.resolve_template_files()


# -- a stream for each of many -----------------------------------------------------------------------


def test_a_stream_cannot_be_mapped(dag: DAG) -> None:
    with pytest.raises(DefinitionError, match=r"DAG 'my_dag', task 'users': .*\.flat_map\(list_users\)"):
        DeferredExpandOperator.partial(task_id="users", source=sources.numbers).expand(source_kwargs=[])


def test_nor_lie_in_a_mapped_group(dag: DAG) -> None:
    @task_group
    def tenant(name: str) -> None:
        expand("insert", stream().output)

    with pytest.raises(DefinitionError, match=r"DAG 'my_dag', task 'tenant.users': .*flat_map"):
        tenant.expand(name=["a", "b"])


def test_nor_in_a_group_within_a_mapped_group(dag: DAG) -> None:
    @task_group
    def tenant(name: str) -> None:
        with TaskGroup("inner"):
            stream()

    with pytest.raises(DefinitionError, match=r"task 'tenant.inner.users': .*flat_map"):
        tenant.expand(name=["a", "b"])


# -- what the author of the DAG has set --------------------------------------------------------------


def test_a_dag_with_fail_fast_streams_to_several_tasks() -> None:
    with DAG("fast", schedule=None, fail_fast=True) as dag:
        users = stream()
        expand("first", users.output)
        expand("second", users.output.filter(sources.is_even))
        expand("all", users.output.concat(stream("others").output))
    assert {"users.second > second", "users.concat_others > all"} <= edges(dag)
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert read.get_task("users.second").trigger_rule == "always"


def test_a_trigger_rule_behind_groups_counts_the_head(dag: DAG) -> None:
    with TaskGroup("load") as load:
        expand("insert", stream().output)
    with TaskGroup("report") as report:
        EmptyOperator(task_id="mail", trigger_rule="one_done")
    load >> report
    with pytest.warns(StreamHeadCounted, match=r"'report.mail' has trigger_rule='one_done'"):
        dag.resolve_template_files()
