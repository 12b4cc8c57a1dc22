"""A server of tiny files, each of which takes its time: ``python -m benchmarks.tiny_files PORT SECONDS``."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web


async def serve(port: int, seconds: float) -> None:
    async def file(request: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        return web.Response(text=request.path * 10)

    app = web.Application()
    app.router.add_get("/{name}", file)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
