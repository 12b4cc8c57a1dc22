"""``SQLExecuteQueryOperator``: each row is an item, read through a server-side cursor."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any

from deferred_expand.sources.adapters import SourceAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000

# What becomes of a result where the author has not said: nothing.
_AS_THEY_COME = (
    "fetch_all_handler", "default_output_processor", "SQLExecuteQueryOperator._process_output",
)  # fmt: skip


class QueryAdapter(SourceAdapter):
    """
    SQLAlchemy reads the rows with the database's own kind of server-side cursor, where it has one.

    Natively the operator fetches the whole result (airflow/providers/common/sql/operators/sql.py); it
    does so here where it is to do something else with it than give its rows, or with several statements.
    After a crash the query is run again and what is committed passed over, so it needs an
    ``ORDER BY`` that puts every row in its place.
    """

    reads = True

    def can_read(self, operator: Any) -> bool:
        own = (operator.handler, operator._output_processor, type(operator)._process_output)
        return (
            tuple(function and function.__qualname__ for function in own) == _AS_THEY_COME
            and isinstance(operator.sql, str)
            and not operator.split_statements
            and bool(operator.do_xcom_push)
        )

    def read(self, operator: Any, context: Any) -> Iterator[list[Any]]:
        if isinstance(operator.parameters, str):
            operator.prepare_template()
        parameters = operator.parameters
        if parameters is not None and not isinstance(parameters, dict):
            parameters = tuple(parameters)
        hook = operator.get_db_hook()
        try:
            engine = hook.get_sqlalchemy_engine()
        except Exception as error:
            log.info("%s has no SQLAlchemy engine (%r): its own cursor is read", type(hook).__name__, error)
            yield from _read_cursor(hook, operator.sql, parameters)
            return
        try:
            # Without parameters a percent sign is one, as with the hook's own cursor.
            options: dict[str, Any] = {"stream_results": True, "no_parameters": True}
            with engine.connect().execution_options(**options) as connection:
                result = connection.exec_driver_sql(operator.sql, parameters)
                for rows in result.partitions(ROWS_AT_ONCE) if result.returns_rows else ():
                    yield [list(row) for row in rows]
                connection.commit()  # as ``DbApiHook.run`` does
        finally:
            engine.dispose()


def _read_cursor(hook: Any, sql: str, parameters: Any) -> Iterator[list[Any]]:
    with closing(hook.get_conn()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(*((sql,) if parameters is None else (sql, parameters)))
        while cursor.description and (rows := cursor.fetchmany(ROWS_AT_ONCE)):
            yield [list(row) for row in rows]
        if hasattr(connection, "commit"):
            connection.commit()
