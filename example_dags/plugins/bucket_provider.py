"""
What a provider could ship: a trigger that lists an S3-like bucket, and the operator for it.

Only ``stream`` knows about buckets. Batches, checkpoints, retries and task instances are the base
class's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import aiohttp

from deferred_expand import DeferredExpandOperator, Page, StreamingExpansionTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NAMESPACE = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}


class ListObjectsTrigger(StreamingExpansionTrigger):
    """
    Gives the keys of a bucket, page by page (``ListObjectsV2``).

    :param url: of the bucket.
    :param prefix: of the keys.
    :param page_size: keys in a page at most.
    """

    def __init__(
        self,
        *,
        url: str,
        prefix: str = "",
        page_size: int = 1000,
        expansion: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(expansion=expansion)
        self.url = url
        self.prefix = prefix
        self.page_size = page_size

    async def stream(self, cursor: Any) -> AsyncIterator[Page]:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            while True:
                asked = {"list-type": "2", "prefix": self.prefix, "max-keys": str(self.page_size)}
                if cursor is not None:
                    asked["continuation-token"] = cursor
                async with session.get(self.url, params=asked) as answer:
                    listing = ElementTree.fromstring(await answer.text())
                cursor = listing.findtext("s3:NextContinuationToken", None, _NAMESPACE)
                keys = [str(key.text) for key in listing.iterfind("s3:Contents/s3:Key", _NAMESPACE)]
                yield Page(keys, cursor=cursor)
                if cursor is None:
                    return


class ListObjectsOperator(DeferredExpandOperator):
    """A bucket as a stream of keys; the arguments are the trigger's."""

    def __init__(self, *, url: str, prefix: str = "", page_size: int = 1000, **kwargs: Any) -> None:
        super().__init__(
            source=ListObjectsTrigger,
            source_kwargs={"url": url, "prefix": prefix, "page_size": page_size},
            **kwargs,
        )
