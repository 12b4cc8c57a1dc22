"""A real HTTP API that pages, stalls and fails as it is told, for the sources of the tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from deferred_expand.testing.local_airflow import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType


@dataclass(frozen=True)
class Request:
    """One page asked for."""

    cursor: int
    at: float
    status: int
    query: dict[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class PagedApi:
    """
    Serves ``/{name}?cursor=&pages=&size=&delay=``: numbers, ``size`` a page, page after page, with
    the next cursor and a ``Link`` header; ``/v1.0/{name}``, entities as Microsoft Graph gives them;
    ``/bucket/{name}``, keys as S3 lists them.

    Runs in a thread of its own; what was asked for is in :attr:`requests`, by name.
    """

    def __init__(self) -> None:
        self.requests: defaultdict[str, list[Request]] = defaultdict(list)
        self._failures: dict[tuple[str, int], tuple[int, str]] = {}
        self._loop = asyncio.new_event_loop()
        self._port = free_port()
        self._thread = threading.Thread(target=self._serve, name="paged api", daemon=True)
        self._ready = threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._port}/{name}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    def fail(self, name: str, cursor: int, times: int, how: str = "503") -> None:
        """
        Fail the first ``times`` times that the page at ``cursor`` is asked for.

        :param how: ``"503"``; ``"429"``, with ``Retry-After: 2``; ``"broken"``, the connection ends
            in the middle of the answer.
        """
        self._failures[name, cursor] = (times, how)

    def cursors(self, name: str) -> list[int]:
        """The pages asked for, in order."""
        return [request.cursor for request in self.requests[name]]

    def __enter__(self) -> PagedApi:
        self._thread.start()
        if not self._ready.wait(30):
            raise TimeoutError("the paged API did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/{name}", self._page)
        app.router.add_get("/v1.0/{name}", self._graph_page)
        app.router.add_get("/bucket/{name}", self._bucket_page)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self._port).start())
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _page(self, request: web.Request) -> web.StreamResponse:
        name, cursor = request.match_info["name"], int(request.query.get("cursor", 0))
        if (failed := await self._failure(request, name, cursor)) is not None:
            return failed
        items, following = self._numbers(request, cursor)
        headers = {}
        if following is not None:
            headers["Link"] = f'<{request.url.update_query(cursor=following)}>; rel="next"'
        return web.json_response({"items": items, "next": following}, headers=headers)

    async def _graph_page(self, request: web.Request) -> web.StreamResponse:
        name, cursor = request.match_info["name"], int(request.query.get("$skiptoken", 0))
        if (failed := await self._failure(request, name, cursor)) is not None:
            return failed
        items, following = self._numbers(request, cursor)
        answer: dict[str, object] = {
            "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users",
            "value": [{"id": str(item), "displayName": f"User {item}"} for item in items],
        }
        if following is not None:
            answer["@odata.nextLink"] = str(request.url.update_query({"$skiptoken": following}))
        return web.json_response(answer)

    async def _bucket_page(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        cursor = int(request.query.get("continuation-token", "token-0").removeprefix("token-"))
        if (failed := await self._failure(request, name, cursor)) is not None:
            return failed
        items, following = self._numbers(request, cursor)
        keys = "".join(f"<Contents><Key>{request.query['prefix']}{n}</Key></Contents>" for n in items)
        token = (
            "" if following is None else f"<NextContinuationToken>token-{following}</NextContinuationToken>"
        )
        namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<ListBucketResult xmlns="{namespace}">{keys}{token}</ListBucketResult>'
        return web.Response(text=text, content_type="application/xml")

    def _numbers(self, request: web.Request, cursor: int) -> tuple[list[int], int | None]:
        pages, size = int(request.query.get("pages", 3)), int(request.query.get("size", 2))
        first = cursor * size
        items = list(range(first, first + size)) if cursor < pages else []
        return items, cursor + 1 if cursor + 1 < pages else None

    async def _failure(self, request: web.Request, name: str, cursor: int) -> web.StreamResponse | None:
        """Note the request, wait as long as it asks, and fail it if it shall fail."""
        await asyncio.sleep(float(request.query.get("delay", 0)))
        left, how = self._failures.get((name, cursor), (0, ""))
        status = 200 if not left else 429 if how == "429" else 503
        asked = Request(cursor, time.time(), status, dict(request.query), request.headers)
        self.requests[name].append(asked)
        if not left:
            return None
        self._failures[name, cursor] = (left - 1, how)
        if how == "broken":
            begun = web.StreamResponse(headers={"Content-Length": "1000"})
            await begun.prepare(request)
            await begun.write(b'{"items": [')
            if request.transport is not None:
                request.transport.abort()
            return begun
        headers = {"Retry-After": "2"} if how == "429" else {}
        return web.Response(status=status, text="come back later", headers=headers)
