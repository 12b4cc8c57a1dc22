"""How the shop's HTTP API pages, for ``example_http_pages``; the triggerer imports these functions."""

from __future__ import annotations

from typing import Any


def next_page(response: Any) -> dict[str, Any] | None:
    """``HttpOperator``'s ``pagination_function``: what to ask for after this answer."""
    following = response.json()["next"]
    return None if following is None else {"data": {"cursor": following}}


def orders_of(responses: list[Any]) -> list[Any]:
    """``HttpOperator``'s ``response_filter``; streamed, it is given one page at a time."""
    return [order for response in responses for order in response.json()["items"]]
