"""
Sources for the example DAGs.

A source that several DAGs use lies in Airflow's plugins folder (as here), in an installed package, or
elsewhere on the PYTHONPATH, where the triggerer imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from deferred_expand import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


async def list_orders(url: str, cursor: int | None = None) -> AsyncIterator[Page]:
    """Orders of a shop's HTTP API, one page after the other; goes on after any page."""
    following = cursor or 0
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        while following is not None:
            async with session.get(url, params={"cursor": following}) as answer:
                page = await answer.json()
            following = page["next"]
            yield Page(items=page["items"], cursor=following)


def list_files(folder: str, pattern: str) -> Iterator[dict[str, Any]]:
    """Files below a folder, as keyword arguments; an ordinary generator, walked in a thread."""
    for path in sorted(Path(folder).rglob(pattern)):
        yield {"bash_command": "wc -c < $FILE", "env": {"FILE": str(path)}}
