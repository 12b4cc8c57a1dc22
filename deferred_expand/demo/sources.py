"""The demo's source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from deferred_expand import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def list_airports(url: str, cursor: int | None = None) -> AsyncIterator[Page]:
    """Pages of rows; one item is a whole page of rows, for one insert."""
    number: int | None = cursor or 0
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        while number is not None:
            async with session.get(url, params={"page": number}) as answer:
                page = await answer.json()
            number = page["next"]
            yield Page(items=[page["rows"]], cursor=number)
