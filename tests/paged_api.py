"""A real HTTP API that pages, stalls and fails as it is told, for the sources of the tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from deferred_expand.testing.local_airflow import free_port

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True)
class Request:
    """One page asked for."""

    cursor: int
    at: float
    status: int


class PagedApi:
    """
    Serves ``/{name}?cursor=&pages=&size=&delay=``: numbers, ``size`` a page, page after page.

    Runs in a thread of its own; what was asked for is in :attr:`requests`, by name.
    """

    def __init__(self) -> None:
        self.requests: defaultdict[str, list[Request]] = defaultdict(list)
        self._failures: dict[tuple[str, int], int] = {}
        self._loop = asyncio.new_event_loop()
        self._port = free_port()
        self._thread = threading.Thread(target=self._serve, name="paged api", daemon=True)
        self._ready = threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._port}/{name}"

    def fail(self, name: str, cursor: int, times: int) -> None:
        """Answer 503 the first ``times`` times that the page at ``cursor`` is asked for."""
        self._failures[name, cursor] = times

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
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self._port).start())
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _page(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        cursor = int(request.query.get("cursor", 0))
        pages, size = int(request.query.get("pages", 3)), int(request.query.get("size", 2))
        await asyncio.sleep(float(request.query.get("delay", 0)))
        failing = self._failures.get((name, cursor), 0)
        self.requests[name].append(Request(cursor, time.time(), 503 if failing else 200))
        if failing:
            self._failures[name, cursor] = failing - 1
            return web.Response(status=503, text="come back later")
        first = cursor * size
        items = list(range(first, first + size)) if cursor < pages else []
        following = cursor + 1 if cursor + 1 < pages else None
        return web.json_response({"items": items, "next": following})
