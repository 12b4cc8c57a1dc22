"""A check for authors of source adapters."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import serde_serialize
from deferred_expand.sources.opening import open_source
from deferred_expand.streams.ref import StreamRef
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.sdk import BaseOperator
    from deferred_expand.streams.page import JSON, Page

GROWTH_ALLOWED = 0.5
"""Of what is kept between hops, from the smaller of the first two to the last: page numbers get longer."""


class ContractBroken(AssertionError):
    """An adapter does not do what :class:`~deferred_expand.SourceAdapter` asks for."""


def check_adapter(operator: type[BaseOperator], source_kwargs: dict[str, Any]) -> list[list[Any]]:
    """
    Walk an operator with the adapter registered for it, and see that the adapter keeps its contract.

    It holds when every item can be put in an XCom, when a walk that goes on from any hop, knowing
    nothing but its cursor, gives what remains, and when no page is kept for later hops. The operator
    runs for real, several times: give it a server of the test's own, with three pages at least.

    :return: the items of each hop, to be compared with what they should be.
    :raises ContractBroken: says what does not hold, and at which hop.
    """
    return asyncio.run(_check(operator, source_kwargs))


async def _check(operator: type[BaseOperator], source_kwargs: dict[str, Any]) -> list[list[Any]]:
    pages = await _walk(operator, source_kwargs, None)
    for number, page in enumerate(pages):
        for item in page.items:
            try:
                json.dumps(serde_serialize(item))
            except Exception as error:
                raise ContractBroken(f"hop {number} gives {item!r}, which no XCom holds: {error}") from error
    for number, page in enumerate(pages):
        rest = await _walk(operator, source_kwargs, json.loads(json.dumps(page.cursor)))
        expected = _items(pages[number + 1 :])
        if _items(rest) != expected:
            raise ContractBroken(
                f"a walk that goes on after hop {number} gives {_items(rest)!r}, not {expected!r}: "
                "what a later hop needs must be in the deferral, or in an XCom named in kept_xcoms"
            )
    _check_growth([len(json.dumps(page.cursor)) for page in pages[:-1]])
    return [list(page.items) for page in pages]


def _check_growth(sizes: list[int]) -> None:
    if len(sizes) > 2 and sizes[-1] > (1 + GROWTH_ALLOWED) * min(sizes[:2]):
        raise ContractBroken(
            f"what is kept between hops grows from {min(sizes[:2])} to {sizes[-1]} characters: "
            "take each page out of deferred.kwargs in of_deferral()"
        )


async def _walk(operator: type[BaseOperator], source_kwargs: dict[str, Any], cursor: JSON) -> list[Page]:
    ref = StreamRef("check_adapter", "run", "stream", "mapped")
    thread = Threads("check_adapter")
    try:
        opened = open_source(operator, source_kwargs, cursor, thread, ref=ref, try_number=1, outer=None)
        async with aclosing(opened) as pages:
            return [page async for page in pages]
    finally:
        thread.close()


def _items(pages: list[Page]) -> list[Any]:
    return [item for page in pages for item in page.items]
