"""A paged HTTP API on loopback, which serves the airports of the vega-datasets package."""

from __future__ import annotations

import argparse
import asyncio
import csv
import time
from importlib.resources import files
from typing import Any

from aiohttp import web

PAGE_SIZE = 100
COLUMNS = ("iata", "name", "city", "state", "country", "latitude", "longitude")

ROWS = web.AppKey("ROWS", list[list[str]])
DELAY = web.AppKey("DELAY", float)
ASKED = web.AppKey("ASKED", dict[str, list[float]])


def read_rows() -> list[list[str]]:
    """The data set as it is in the package; no network."""
    text = (files("vega_datasets") / "_data" / "airports.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines())
    if tuple(header) != COLUMNS:
        raise ValueError(f"the data set has other columns than expected: {header}")
    return rows


async def get_page(request: web.Request) -> web.Response:
    """``/{client}?page=``: one page of rows, after a while, and the number of the next one."""
    rows, number = request.app[ROWS], int(request.query.get("page", 0))
    await asyncio.sleep(request.app[DELAY])
    request.app[ASKED].setdefault(request.match_info["client"], []).append(time.time())
    first = number * PAGE_SIZE
    more = first + PAGE_SIZE < len(rows)
    return web.json_response({"rows": rows[first : first + PAGE_SIZE], "next": number + 1 if more else None})


async def get_asked(request: web.Request) -> web.Response:
    """When each client was given its pages."""
    return web.json_response(request.app[ASKED])


def make_app(delay: float) -> web.Application:
    app = web.Application()
    app[ROWS], app[DELAY], app[ASKED] = read_rows(), delay, {}
    app.router.add_get("/asked", get_asked)
    app.router.add_get("/pages/{client}", get_page)
    return app


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=1.5, help="seconds per page")
    options: Any = parser.parse_args(arguments)
    web.run_app(make_app(options.delay), host="127.0.0.1", port=options.port, print=None)


if __name__ == "__main__":
    main()
