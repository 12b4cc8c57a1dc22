"""
A server of tiny files, each of which takes its time: ``python -m benchmarks.tiny_files PORT SECONDS``.

``/asked`` tells how often files were asked for, how many of them twice, and when for the last time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter

from aiohttp import web


async def serve(port: int, seconds: float) -> None:
    counts: Counter[str] = Counter()
    last = 0.0

    async def asked(request: web.Request) -> web.Response:
        twice = sum(count - 1 for count in counts.values())
        return web.json_response({"times": counts.total(), "twice": twice, "last": last})

    async def file(request: web.Request) -> web.Response:
        nonlocal last
        last = time.time()
        counts[request.path] += 1
        await asyncio.sleep(seconds)
        return web.Response(text=request.path * 10)

    app = web.Application()
    app.router.add_get("/asked", asked)
    app.router.add_get("/{name}", file)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
