"""What items are given, against what Airflow gives the instances of a mapped task."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput, ListOfDictsExpandInput
from airflow.sdk.definitions.xcom_arg import XComArg, get_task_map_length
from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

from deferred_expand.airflow_internals.columns import SLICE, Arguments
from deferred_expand.workers.digests import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Given(XComArg):
    """A task's return value, without the task."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def iter_references(self) -> Any:
        return iter(())

    def resolve(self, context: Any) -> Any:
        return self.value


@get_task_map_length.register
def _(given: Given, resolved: Any, upstream: Any) -> int:
    return len(given.value)


CONTEXT: Any = {"ti": SimpleNamespace(map_index=0)}

INPUTS: dict[str, Callable[[], Any]] = {
    "lists": lambda: DictOfListsExpandInput({"a": [1, 2, 3], "b": ["x", "y"]}),
    "dict": lambda: DictOfListsExpandInput({"a": {"k": 1, "l": 2}}),
    "xcom": lambda: DictOfListsExpandInput({"a": Given([1, 2]), "b": [7, 8, 9]}),
    "map": lambda: DictOfListsExpandInput({"a": Given([1, 2]).map(lambda v: v + 1).map(str)}),
    "zip": lambda: DictOfListsExpandInput({"a": Given([1, 2]).map(str).zip(Given([3, 4, 5]))}),
    "zip longest": lambda: DictOfListsExpandInput({"a": Given([1, 2]).zip(Given([3, 4, 5]), fillvalue=None)}),
    "concat": lambda: DictOfListsExpandInput({"a": Given([1, 2]).concat(Given([3]).map(str), Given([4]))}),
    "map of a zip": lambda: DictOfListsExpandInput({"a": Given([1, 2]).zip(Given([3, 4])).map(sum)}),
    "dicts": lambda: ListOfDictsExpandInput([{"a": 1}, {"b": 2, "c": 3}]),
    "dicts of a task": lambda: ListOfDictsExpandInput(
        Given([{"a": 1}, {"a": 2}]).map(lambda d: {**d, "z": 1})
    ),
    "dicts and tasks": lambda: ListOfDictsExpandInput([{"a": 1}, Given({"a": 2})]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_each_item_is_given_what_the_instance_with_its_index_would_be(name: str) -> None:
    given = INPUTS[name]()
    arguments = Arguments(given, CONTEXT)
    found = [arguments.finish(arguments.read(index))[0] for index in range(len(arguments))]
    expected: list[Any] = []
    for index in range(len(arguments)):
        resolved, _ = given.resolve({"ti": SimpleNamespace(map_index=index, run_id="r")})
        expected.append(dict(resolved))
    assert found == expected
    assert len(found) > 1
    with pytest.raises((IndexError, ZeroDivisionError)):
        Arguments(DictOfListsExpandInput({"a": []}), CONTEXT).read(0)


def test_what_comes_of_a_task_is_no_template_and_what_the_author_wrote_is() -> None:
    arguments = Arguments(DictOfListsExpandInput({"a": Given([1]), "b": [2]}), CONTEXT)
    assert arguments.finish(arguments.read(0)) == ({"a": 1, "b": 2}, {"a"})
    arguments = Arguments(ListOfDictsExpandInput(Given([{"a": 1}])), CONTEXT)
    assert arguments.finish(arguments.read(0)) == ({"a": 1}, {"a"})
    arguments = Arguments(ListOfDictsExpandInput([{"a": 1}]), CONTEXT)
    assert arguments.finish(arguments.read(0)) == ({"a": 1}, set())


@pytest.mark.parametrize("wrong", ["text", 7, None, {1}])
def test_what_cannot_be_mapped_over(wrong: Any) -> None:
    with pytest.raises(TypeError, match="can't map over value of type"):
        Arguments(DictOfListsExpandInput({"a": Given(wrong)}), CONTEXT)


@pytest.mark.parametrize("wrong", [[1], [{1: 2}]])
def test_what_are_no_arguments(wrong: Any) -> None:
    arguments = Arguments(ListOfDictsExpandInput(Given(wrong)), CONTEXT)
    with pytest.raises(ValueError, match=r"over_kwargs\(\) expects dicts with names as keys"):
        arguments.finish(arguments.read(0))


def test_results_of_many_instances_are_asked_for_in_slices(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    @task
    def one() -> int:
        return 1

    asked: list[Any] = []

    def get(self: Any, key: Any) -> Any:
        asked.append(key)
        return list(range(1000))[key]

    monkeypatch.setattr(LazyXComSequence, "__getitem__", get)
    monkeypatch.setattr(LazyXComSequence, "__len__", lambda self: 1000)
    given: Any = one()
    lazy: Any = LazyXComSequence(xcom_arg=given, ti=CONTEXT["ti"])
    arguments = Arguments(DictOfListsExpandInput({"a": Given(lazy).map(str)}), CONTEXT)
    assert [arguments.finish(arguments.read(index))[0]["a"] for index in range(1000)] == list(
        map(str, range(1000))
    )
    assert len(asked) == 1000 // SLICE


def test_a_digest_is_of_the_value_as_xcom_holds_it() -> None:
    arguments = Arguments(DictOfListsExpandInput({"a": Given([1]).map(lambda value: object())}), CONTEXT)
    assert digest_of(arguments.read(0)) == digest_of({"a": 1})


def test_a_digest_is_the_same_for_the_same_and_another_for_another() -> None:
    moment = datetime(2026, 1, 2, tzinfo=timezone.utc)
    values = [1, "1", 1.5, None, [1], {"a": 1}, {"a": [1, {"b": 2}]}, moment, {"at": moment}]
    digests = [digest_of(value) for value in values]
    assert len({*digests}) == len(values)
    assert all(digests)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


@pytest.mark.parametrize("unstable", [{1, 2}, {"a": {1}}, print, object(), lambda: 1, [float("nan")]])
def test_what_has_no_stable_form_has_no_digest(unstable: Any) -> None:
    assert digest_of(unstable) == ""
