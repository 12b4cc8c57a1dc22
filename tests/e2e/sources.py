"""Sources of the end-to-end tests; on the PYTHONPATH of every component, as a user's would be."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from airflow.sdk.exceptions import AirflowSkipException

from deferred_expand import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


log = logging.getLogger(__name__)


class ApiBroke(RuntimeError):
    """To be found in a log."""


async def api_pages(
    url: str, pages: int, size: int, delay: float = 0, cursor: int | None = None
) -> AsyncIterator[Page]:
    """Numbers from the paged API, entered at any page."""
    following: int | None = cursor or 0
    async with aiohttp.ClientSession() as session:
        while following is not None:
            query = {"cursor": following, "pages": pages, "size": size, "delay": delay}
            async with session.get(url, params={key: str(value) for key, value in query.items()}) as answer:
                if answer.status != 200:
                    raise ApiBroke(f"page {following}: {await answer.text()}")
                page = await answer.json()
            following = page["next"]
            yield Page(items=page["items"], cursor=following)


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def words(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield f"word {number}"


async def records(count: int) -> AsyncIterator[dict[str, Any]]:
    """Items for ``expand_kwargs``; one goes to a templated argument, and looks like a template."""
    for number in range(count):
        yield {"value": number, "templated": "{{ 1 / 0 }}"}


def blocking_templates(count: int, pause: float) -> Iterator[dict[str, str]]:
    """A sync generator that blocks; what it gives looks like templates."""
    for number in range(count):
        time.sleep(pause)
        yield {"text": f"{{{{ 1 / 0 }}}} {number}"}


async def third_is_bad(count: int) -> AsyncIterator[Any]:
    """Item 3 cannot be put in an XCom."""
    for number in range(1, count + 1):
        yield object() if number == 3 else number


async def gated(gates: str, cursor: int | None = None) -> AsyncIterator[Page]:
    """Page n comes when file n is in the folder, and holds as many items as the file says."""
    folder, number, given = Path(gates), cursor or 0, 0
    try:
        while True:
            while not (folder / str(number)).exists():  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.1)
            count = int((folder / str(number)).read_text())
            if count == 0:
                return
            given = sum(int((folder / str(n)).read_text()) for n in range(number))
            number += 1
            (folder / "asked").open("a").write(f"{number - 1}\n")
            yield Page(items=list(range(given, given + count)), cursor=number)
    except (asyncio.CancelledError, GeneratorExit):
        (folder / "closed").open("a").write(f"{number}\n")
        raise


PASSWORD = "open sesame"
SIGNATURE = "sig9nature"
TOKEN = "tok3n-of-the-next-page"


async def gated_by_password(
    gates: str, password: str, link: str, cursor: dict[str, Any] | None = None
) -> AsyncIterator[Page]:
    """Has signed links as cursors, and ends as nobody should: it tells everyone the password."""
    assert password == PASSWORD
    assert link.endswith(SIGNATURE)
    log.warning("logging in with %s", password)
    if cursor is not None:
        assert cursor["next"].endswith(TOKEN)
    async for page in gated(gates, cursor["page"] if cursor else None):
        yield Page(page.items, cursor={"page": page.cursor, "next": f"https://shop.test/?token={TOKEN}"})
    raise ApiBroke(f"{password} was wrong")


def upper_rows(results: list[Any], descriptions: list[Any]) -> list[Any]:
    """What ``SQLExecuteQueryOperator`` is given as its ``output_processor``."""
    return [[[name.upper()] for (name,) in results[0]]]


def give(texts: list[str]) -> Iterator[str]:
    yield from texts


def as_many_as(file: str) -> Iterator[int]:
    """As many as the file says at this time."""
    yield from range(int(Path(file).read_text()))


def fails_twice(notes: str, cursor: int | None = None) -> Iterator[Page]:
    """Two pages; the second comes when it is asked for the third time."""
    if cursor is None:
        yield Page(items=[0, 1], cursor=1)
    if _count(Path(notes)) < 3:
        raise ApiBroke("come back later")
    yield Page(items=[2], cursor=2)


def next_by_token(response: Any) -> dict[str, Any] | None:
    """For ``HttpOperator``: the answer names the next page."""
    following = response.json()["next"]
    return None if following is None else {"data": {"cursor": following}}


def next_by_link(response: Any) -> dict[str, Any] | None:
    """For ``HttpOperator``: the ``Link`` header names the next page."""
    link = response.links.get("next")
    return None if link is None else {"endpoint": link["url"].split("/", 3)[3], "data": {}}


def numbers_of(responses: list[Any]) -> list[int]:
    return [number for response in responses for number in response.json()["items"]]


async def search(
    results: AsyncIterator[dict[str, int]], good_enough: int = 6, width: int = 3
) -> AsyncIterator[int]:
    """Tries higher numbers until the results of those before are good enough."""
    best, tried = 0, 0
    while best < good_enough:
        for number in range(tried, tried + width):
            yield number
        tried += width
        async for result in results:
            best = max(best, result["value"] or 0)


async def tries_until_large(results: AsyncIterator[list[int]]) -> AsyncIterator[int]:
    """Three numbers at a time, until what was made of one of them is above 20."""
    best, tried = 0, 0
    while best <= 20:
        for number in range(tried, tried + 3):
            yield number
        tried += 3
        async for result in results:
            best = max(best, result[0])


def as_x(number: int) -> dict[str, int]:
    return {"x": number}


def is_even(number: int) -> bool:
    return number % 2 == 0


async def times_ten(number: int) -> int:
    return number * 10


async def twice(number: int) -> AsyncIterator[str]:
    for letter in "ab":
        yield f"{number}{letter}"


def all_but_two(number: int) -> int:
    if number == 2:
        raise AirflowSkipException("two is not wanted")
    return number


def as_kwargs(number: int) -> dict[str, int]:
    return {"value": number}


def is_negative(number: int) -> bool:
    return number < 0


def is_first(number: int) -> bool:
    return number == 0


async def breaks_after(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number
    raise ApiBroke(f"after {count}")


async def endless(notes: str) -> AsyncIterator[int]:
    """Numbers for as long as anyone wants them; says that it is open, and that it was closed."""
    path = Path(notes)
    number = 0
    try:
        while True:
            yield number
            number += 1
            await asyncio.to_thread(path.with_suffix(".open").write_text, str(number))
            await asyncio.sleep(0.2)
    finally:
        path.with_suffix(".closed").touch()


async def hangs(notes: str, times: int, cursor: int | None = None) -> AsyncIterator[Page]:
    """Two pages; before the second it hangs as often as that."""
    if cursor is None:
        yield Page(items=[0, 1], cursor=1)
    try:
        if await asyncio.to_thread(_count, Path(notes)) <= times:
            await asyncio.Event().wait()
        yield Page(items=[2], cursor=2)
    finally:
        Path(notes).with_suffix(".closed").touch()


def _count(notes: Path) -> int:
    """How often it was called."""
    with notes.open("a+") as asked:
        asked.write("asked\n")
        asked.seek(0)
        return len(asked.readlines())


def hangs_in_a_thread(seconds: float) -> Iterator[int]:
    yield 0
    time.sleep(seconds)
    yield 1
