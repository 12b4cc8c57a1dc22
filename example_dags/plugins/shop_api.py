"""What the examples know of a shop. It lies in the plugins folder, where all DAGs can import it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def next_page(response: Any) -> dict[str, Any] | None:
    """``HttpOperator``'s ``pagination_function``: what to ask for after this answer."""
    following = response.json()["next"]
    return None if following is None else {"data": {"cursor": following}}


def orders_of(responses: list[Any]) -> list[Any]:
    """``HttpOperator``'s ``response_filter``; streamed, it is given one page at a time."""
    return [order for response in responses for order in response.json()["items"]]


async def todays_orders(count: int) -> AsyncIterator[dict[str, Any]]:
    """Orders as they come in."""
    for number in range(count):
        await asyncio.sleep(0.5)
        yield {"number": number, "amount": 30.0 * number}


def is_large(order: dict[str, Any]) -> bool:
    return bool(order["amount"] >= 100)


def free_trucks() -> Iterator[str]:
    """A plain generator: walked in a thread."""
    yield from ("Anna", "Berta", "Cäsar", "Dora", "Emil")
