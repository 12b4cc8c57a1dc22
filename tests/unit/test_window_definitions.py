"""``.window()`` as a DAG file has it, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, task

from deferred_expand import DefinitionError, Page, StreamWindow, WindowRunOperator, iterate, stream
from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.streams.ref import StreamRef
from deferred_expand.streams.units import ITEM, Unit
from deferred_expand.workers.window_run import LONGEST_RUN_ID, child_run_id
from deferred_expand.workers.windows import Window
from tests.unit.graphs import stream as make_stream


@pytest.fixture(autouse=True)
def dag() -> Any:
    with DAG("dag", schedule=None) as dag:
        yield dag


def load(window: Any, **arguments: Any) -> Any:
    given: Any = {"task_id": "load", "trigger_dag_id": "load_window", **arguments}
    return WindowRunOperator.partial(**given).expand(window=window)


def complete(dag: DAG) -> None:
    for one in list(dag.tasks):
        one.resolve_template_files()


def test_the_stream_counts_windows() -> None:
    users = make_stream()
    load(users.output.filter(len).window(500, every=timedelta(minutes=1)))
    assert users.definition.unit == Unit("window", 500, 60.0)
    assert [step.kind for step in users.definition.steps] == ["filter"]


def test_beside_others_the_windows_have_a_stream_of_their_own(dag: DAG) -> None:
    users = make_stream()
    load(users.output.window(5))

    @task
    def read(values: Any) -> None: ...

    read(users.output)
    assert users.definition.unit == ITEM
    branch: Any = dag.get_task("users.load")
    assert branch.definition.unit == Unit("window", 5)
    assert dag.get_task("load").upstream_task_ids == {"users.load"}


Wrong = Callable[[], Any]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: make_stream().output.window(0), "a whole number of items, 1 or more"),
        (lambda: make_stream().output.window(True), "a whole number of items, 1 or more"),
        (lambda: make_stream().output.window(5, every=0), "a number of seconds above 0, or a timedelta"),
        (lambda: make_stream().output.window(5).map(str), r"\.map\(\) of windows: shape the items first"),
        (lambda: make_stream().output.window(5).window(2), r"\.window\(\) of windows"),
        (lambda: make_stream().output.zip(make_stream("b").output.window(2)), r"\.zip\(\) of windows"),
        (lambda: StreamWindow.partial(task_id="rows"), "a StreamWindow cannot be mapped"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Wrong, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        wrong()


def test_windows_are_not_read_as_a_whole() -> None:
    @task
    def read(values: Any) -> None: ...

    with pytest.raises(DefinitionError, match="is given windows of the stream as a whole"):
        read(make_stream().output.window(5))


@pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store")
def test_windows_are_not_iterated_over() -> None:
    @task
    def one(value: Any) -> None: ...

    with pytest.raises(DefinitionError, match="iterate in the DAG that works on a window"):
        iterate(one).over(value=make_stream().output.window(5))


def test_results_of_windows_need_a_cursor(dag: DAG) -> None:
    @stream
    async def search(results: Any = None) -> AsyncIterator[int]:
        yield 1

    load(search().window(5))
    with pytest.raises(DefinitionError, match="a source that takes results of windows needs a cursor"):
        complete(dag)


@stream(continue_last_run=True)
async def endless(cursor: Any = None) -> AsyncIterator[Page]:
    yield Page([1], cursor=1)


def test_two_runs_at_a_time_cannot_both_go_on(dag: DAG) -> None:
    load(endless().window(5))
    with pytest.raises(DefinitionError, match="continue_last_run needs max_active_runs=1 in its DAG"):
        complete(dag)


def test_who_goes_on_needs_a_cursor() -> None:
    @stream(continue_last_run=True)
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with DAG("one", schedule=None, max_active_runs=1) as dag:
        load(numbers().window(5))
    with pytest.raises(DefinitionError, match="continue_last_run needs a source with a cursor"):
        complete(dag)


class _Store:
    def __init__(self, ref: StreamRef) -> None:
        self.ref = ref


def window(run_id: str = "run", opening: str = "a" * 32, number: int = 1) -> Window:
    ref = StreamRef("parent", run_id, "rows", "load")
    return Window(_Store(ref), opening, number)  # type: ignore[arg-type]


def test_a_childs_run_id_tells_parent_opening_and_window() -> None:
    assert child_run_id(window()) == f"parent.run.rows.{'a' * 12}.1"
    others = [
        window(run_id="other"), window(opening="b" * 32), window(number=2),
        window(run_id="long" * 100), window(run_id="long" * 100 + "er"),
    ]  # fmt: skip
    ids = {child_run_id(one) for one in (window(), *others)}
    assert len(ids) == 6
    assert max(map(len, ids)) <= LONGEST_RUN_ID


def test_it_is_an_ordinary_mapped_task() -> None:
    operator: BaseOperator = WindowRunOperator(task_id="load", window=None, trigger_dag_id="other")
    assert "window" not in operator.template_fields
