"""Fetching many tiny files, as one writes it without Airflow: also a script that does and tells its costs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import aiohttp
import httpx


@cache
def session(loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
    """One for each loop, with connections for all that run at a time."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200))


@cache
def client() -> httpx.Client:
    return httpx.Client(limits=httpx.Limits(max_connections=200, max_keepalive_connections=200))


async def fetch(url: str, index: int) -> int:
    async with session(asyncio.get_running_loop()).get(f"{url}/{index}") as answer:
        return len(await answer.read())


def fetch_in_thread(url: str, index: int) -> int:
    return len(client().get(f"{url}/{index}").content)


async def fetch_all(url: str, count: int, at_a_time: int) -> int:
    """A plain loop with pooled connections."""
    places = asyncio.Semaphore(at_a_time)

    async def one(index: int) -> int:
        async with places:
            return await fetch(url, index)

    try:
        return sum(await asyncio.gather(*(one(index) for index in range(count))))
    finally:
        await session(asyncio.get_running_loop()).close()


def fetch_all_in_threads(url: str, count: int, threads: int) -> int:
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda index: fetch_in_thread(url, index), range(count)))


async def wait_all(count: int, hops: int) -> None:
    """A second for each hop."""

    async def one() -> None:
        for _ in range(hops):
            await asyncio.sleep(1)

    await asyncio.gather(*(one() for _ in range(count)))


if __name__ == "__main__":
    began = time.perf_counter()
    count, how_many = map(int, sys.argv[2:])
    if sys.argv[1] == "waits":
        asyncio.run(wait_all(count, how_many))
    else:
        asyncio.run(fetch_all(sys.argv[1], count, how_many))
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time()}))
