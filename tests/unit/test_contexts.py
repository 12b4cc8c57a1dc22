"""The context of an operator that is a source, on its way to the triggerer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pendulum
import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.api.datamodels._generated import DagRun

from deferred_expand import DeferredExpandOperator
from deferred_expand.airflow_internals.contexts import carry, restore
from deferred_expand.exceptions import DefinitionError, NotInContext
from deferred_expand.sources.arguments import pack, unpack
from deferred_expand.sources.chain import OperatorChain
from deferred_expand.sources.sealing import seal, unseal
from deferred_expand.streams.ref import StreamRef
from tests.e2e.operators import ContextOperator, EchoOperator

if TYPE_CHECKING:
    from pathlib import Path

NOON = pendulum.datetime(2026, 3, 4, 12)
RUN = DagRun.model_validate(
    {
        "dag_id": "dag",
        "run_id": "run",
        "logical_date": NOON,
        "data_interval_start": NOON.subtract(days=1),
        "data_interval_end": NOON,
        "run_after": NOON,
        "start_date": NOON,
        "end_date": None,
        "run_type": "manual",
        "state": "running",
        "conf": {"n": [5]},
        "consumed_asset_events": [],
        "partition_key": None,
    }
)
WHOLE: dict[str, Any] = {
    "run_id": "run",
    "dag_run": RUN,
    "params": {"n": 3},
    "logical_date": NOON,
    "data_interval_start": NOON.subtract(days=1),
    "data_interval_end": NOON,
    "ds": "2026-03-04",
    "ts": NOON.isoformat(),
    "partition_key": None,
    "dag": DAG("dag", schedule=None),
    "ti": SimpleNamespace(run_id="run"),
}


def travelled() -> dict[str, Any]:
    return restore(unpack(unseal(seal(pack({"context": carry(WHOLE)}))))["context"])


def test_what_is_known_at_the_start_arrives_as_it_was() -> None:
    arrived = travelled()
    assert arrived["dag_run"] == RUN
    assert {key: arrived[key] for key in carry(WHOLE) if key != "dag_run"} == {
        key: WHOLE[key] for key in WHOLE if key not in ("dag", "ti", "dag_run", "partition_key")
    }
    assert arrived["logical_date"].add(days=1).day == 5, "with what pendulum gives"
    assert arrived["macros"].ds_add("2026-01-01", 1) == "2026-01-02"
    assert {"conn", "var"} <= arrived.keys()


class Asks(BaseOperator):
    def __init__(self, *, key: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.key = key

    def execute(self, context: Any) -> Any:
        return [context[self.key], context.get("dag")]


def test_what_has_not_arrived_is_told_by_name() -> None:
    ref = StreamRef("dag", "run", "users", "insert")
    assert OperatorChain(Asks, {"key": "ds"}, ref, 1, travelled()).begin().items == ["2026-03-04", None]
    with pytest.raises(NotInContext, match=r"^'prev_start_date_success' of the context .* \(task 'users'\)"):
        OperatorChain(Asks, {"key": "prev_start_date_success"}, ref, 1, travelled()).begin()


def test_an_operators_arguments_have_the_dags_defaults() -> None:
    with DAG("dag", schedule=None, default_args={"told": "by the DAG", "retries": 7, "value": 1}):
        by_default = DeferredExpandOperator(task_id="a", source=ContextOperator)
        own = DeferredExpandOperator(task_id="b", source=ContextOperator, source_kwargs={"told": "by b"})
        other = DeferredExpandOperator(task_id="c", source=EchoOperator)
    assert by_default.source_kwargs == {"told": "by the DAG"}
    assert own.source_kwargs == {"told": "by b"}
    assert other.source_kwargs == {"value": 1}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for folder, name in (("dags", "beside.sql"), ("shared", "found.sql")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(f"select '{name}' from {{{{ params.table }}}}")
    return tmp_path


def parse(folders: Path, **source_kwargs: Any) -> Any:
    """As the DAG processor and workers do."""
    with DAG("dag", schedule=None, template_searchpath=str(folders / "shared")) as dag:
        dag.fileloc = str(folders / "dags" / "dag.py")
        users = DeferredExpandOperator(
            task_id="users", source=SQLExecuteQueryOperator, source_kwargs={"conn_id": "c", **source_kwargs}
        )
    for _ in range(2):
        dag.resolve_template_files()
    return users.source_kwargs


def test_template_files_are_read_where_the_operator_would(folders: Path) -> None:
    beside, found = (
        "select 'beside.sql' from {{ params.table }}",
        "select 'found.sql' from {{ params.table }}",
    )
    assert parse(folders, sql="beside.sql")["sql"] == beside
    assert parse(folders, sql=["found.sql", "select 1"])["sql"] == [found, "select 1"]
    not_a_template = parse(folders, sql="select 1", split_statements=False, show_return_value_in_logs="x.sql")
    assert not_a_template["show_return_value_in_logs"] == "x.sql"


def test_a_template_file_that_is_missing_is_named(folders: Path) -> None:
    with pytest.raises(
        DefinitionError, match=r"DAG 'dag', task 'users': .* 'missing.sql'.*template_searchpath"
    ):
        parse(folders, sql="missing.sql")
