"""``SQLExecuteQueryOperator``: each row is an item, read through a server-side cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.sources.adapters import SourceAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS_AT_ONCE = 1000


class QueryAdapter(SourceAdapter):
    """
    SQLAlchemy reads the rows with the database's own kind of server-side cursor, where it has one.

    Natively the operator fetches the whole result (airflow/providers/common/sql/operators/sql.py).
    After a crash the query is run again and what is committed passed over, so it needs an
    ``ORDER BY`` that puts every row in its place.
    """

    reads = True

    def read(self, operator: Any, context: Any) -> Iterator[list[Any]]:
        if not isinstance(operator.sql, str) or operator.split_statements:
            raise ValueError("SQLExecuteQueryOperator is streamed with one statement as sql")
        parameters = operator.parameters
        if parameters is not None and not isinstance(parameters, dict):
            parameters = tuple(parameters)
        engine = operator.get_db_hook().get_sqlalchemy_engine()
        try:
            with engine.connect().execution_options(stream_results=True) as connection:
                result = connection.exec_driver_sql(operator.sql, parameters)
                for rows in result.partitions(ROWS_AT_ONCE):
                    yield [list(row) for row in rows]
        finally:
            engine.dispose()
