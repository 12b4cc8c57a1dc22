"""``GenericTransfer``: each page of rows is one item."""

from __future__ import annotations

from typing import Any

from deferred_expand.sources.adapters import SourceAdapter


class TransferAdapter(SourceAdapter):
    """
    The operator reads page by page with ``page_size``; the rows become an item instead of being
    inserted, so the mapped task says where they go.

    It keeps how far it has read in an XCom of its own
    (airflow/providers/common/sql/operators/generic_transfer.py, ``execute_complete``).
    """

    kept_xcoms = ("offset",)

    def prepare(self, operator: Any) -> None:
        if not (operator.page_size and operator.deferrable and isinstance(operator.sql, str)):
            raise ValueError("GenericTransfer is streamed with page_size, deferrable=True and one statement")
        operator.preoperator = None
        operator.rows_of_hop = []
        operator._insert_rows = lambda rows, context: operator.rows_of_hop.append([list(row) for row in rows])

    def of_deferral(self, operator: Any, context: Any, deferred: Any, pushed: dict[str, Any]) -> list[Any]:
        rows, operator.rows_of_hop = operator.rows_of_hop, []
        return rows  # type: ignore[no-any-return]
