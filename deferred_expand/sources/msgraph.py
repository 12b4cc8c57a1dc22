"""``MSGraphAsyncOperator``: each answer's ``value`` is a page."""

from __future__ import annotations

from typing import Any

from deferred_expand.sources.adapters import SourceAdapter, items_of


class MSGraphAdapter(SourceAdapter):
    """
    Items are the entries of ``value``, where Microsoft Graph has a page's entries; of what
    ``result_processor`` makes of an answer otherwise.

    Natively the operator pulls and pushes the list of all pages with every page
    (airflow/providers/microsoft/azure/operators/msgraph.py, ``execute_complete``). Here it finds
    none to add to, so that it pushes the page alone.
    """

    def of_deferral(self, operator: Any, context: Any, deferred: Any, pushed: dict[str, Any]) -> list[Any]:
        return [entry for answer in items_of(pushed.get(operator.key)) for entry in _entries(answer)]

    def of_result(self, operator: Any, context: Any, result: Any, pushed: dict[str, Any]) -> list[Any]:
        return [entry for answer in items_of(result) for entry in _entries(answer)]


def _entries(answer: Any) -> list[Any]:
    if isinstance(answer, dict) and isinstance(answer.get("value"), list):
        return list(answer["value"])
    return [answer]
