"""What a source may be, and what is refused by name."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import types
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest
from airflow._shared.plugins_manager import _load_plugins_from_plugin_directory

from deferred_expand import Page
from deferred_expand.exceptions import SourceFailed, SourceNotImportable
from deferred_expand.sources.function import takes, walk_function
from deferred_expand.sources.importing import import_source, source_path
from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

threads_seen: list[str] = []
closed: list[str] = []
variable: ContextVar[str] = ContextVar("variable", default="unset")


async def async_numbers(count: int, cursor: int | None = None) -> AsyncIterator[int]:
    threads_seen.append(threading.current_thread().name)
    try:
        for number in range(cursor or 0, count):
            yield number
    finally:
        closed.append("async_numbers")


def numbers(count: int) -> Iterator[int]:
    try:
        for number in range(count):
            threads_seen.append(threading.current_thread().name)
            yield number
    finally:
        closed.append("numbers")


def one_page(count: int) -> Page:
    return Page(list(range(count)))


def as_list(count: int) -> list[int]:
    return list(range(count))


async def as_awaitable(count: int) -> list[int]:
    return list(range(count))


def as_async_iterator(count: int) -> AsyncIterator[int]:
    return async_numbers(count)


def not_iterable(count: int) -> int:
    return count


def sees_context(count: int) -> Iterator[str]:
    yield variable.get()


class Holder:
    @staticmethod
    async def inside(count: int) -> AsyncIterator[int]:
        yield count


def items_of(given: Any) -> list[Any]:
    """Items come one by one, or several at once as a page without a cursor."""
    return list(given.items) if isinstance(given, Page) else [given]


async def walked(function: Callable[..., Any], count: int, cursor: Any = None) -> list[Any]:
    thread = Threads("the walk's own")
    try:
        opened = walk_function(function, {"count": count}, cursor, thread)
        return [item async for given in opened for item in items_of(given)]
    finally:
        thread.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("function", [async_numbers, numbers, as_list, as_awaitable, as_async_iterator])
async def test_whatever_can_be_iterated_is_a_source(function: Callable[..., Any]) -> None:
    assert await walked(function, 3) == [0, 1, 2]


@pytest.mark.asyncio
async def test_a_function_may_return_one_page() -> None:
    assert await walked(one_page, 2) == [0, 1]


def pages_and_items(count: int) -> Iterator[Any]:
    for number in range(count):
        yield number
        yield Page([number], cursor=number)


@pytest.mark.asyncio
async def test_a_page_between_items_keeps_its_cursor() -> None:
    thread = Threads("source")
    given = [page async for page in walk_function(pages_and_items, {"count": 2}, None, thread)]
    thread.close()
    assert given == [Page([0]), Page([0], cursor=0), Page([1]), Page([1], cursor=1)]


@pytest.mark.asyncio
async def test_a_cursor_is_given_to_a_source_that_takes_one() -> None:
    assert takes(async_numbers, "cursor")
    assert not takes(numbers, "cursor")
    assert await walked(async_numbers, 5, cursor=3) == [3, 4]


@pytest.mark.asyncio
async def test_what_blocks_runs_in_the_walks_own_thread() -> None:
    threads_seen.clear()
    await walked(numbers, 2)
    assert {name.startswith("the walk's own") for name in threads_seen} == {True}


@pytest.mark.asyncio
async def test_context_variables_reach_the_thread() -> None:
    variable.set("set in the loop")
    assert await walked(sees_context, 1) == ["set in the loop"]


@pytest.mark.asyncio
@pytest.mark.parametrize("function", [async_numbers, numbers])
async def test_a_source_that_is_left_early_is_closed(function: Callable[..., Any]) -> None:
    closed.clear()
    thread = Threads("closing")
    opened = walk_function(function, {"count": 9}, None, thread)
    assert items_of(await anext(opened))[0] == 0
    await opened.aclose()
    assert closed == [function.__name__]
    thread.close()


@pytest.mark.asyncio
async def test_a_source_that_cannot_be_iterated_is_named() -> None:
    with pytest.raises(SourceFailed, match="returned 'int', which cannot be iterated"):
        await walked(not_iterable, 1)


@pytest.mark.asyncio
async def test_one_blocked_source_holds_no_other_up() -> None:
    release = threading.Event()
    blocked, free = Threads("blocked"), Threads("free")
    waiting = asyncio.create_task(blocked.run(release.wait, 30))
    assert await asyncio.wait_for(free.run(len, "abc"), 10) == 3
    release.set()
    assert await waiting
    blocked.close()
    free.close()


@pytest.mark.parametrize(
    ("source", "path"),
    [
        (async_numbers, "tests.unit.test_sources:async_numbers"),
        ("tests.unit.test_sources:numbers", "tests.unit.test_sources:numbers"),
        (Holder.inside, "tests.unit.test_sources:Holder.inside"),
    ],
)
def test_a_source_is_named_so_that_it_can_be_imported(source: Any, path: str) -> None:
    assert source_path(source) == path
    assert callable(import_source(path))


def defined_in(module: str) -> Callable[..., Any]:
    function = types.FunctionType(numbers.__code__, globals(), "my_numbers")
    function.__module__, function.__qualname__ = module, "my_numbers"
    return function


def nested() -> Callable[..., Any]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: [], "has no name"),
        (nested(), "source 'inner' is defined inside a function"),
        (defined_in("__main__"), "source 'my_numbers' is defined in the DAG file"),
        (defined_in("unusual_prefix_abc_my_dag"), "source 'my_numbers' is defined in the DAG file"),
        (defined_in("tests.unit.test_sources"), "cannot be imported"),
        ("tests.unit.test_sources", "not of the form 'package.module:name'"),
        ("no.such.module:thing", "cannot be imported: No module named 'no'"),
        ("tests.unit.test_sources:nothing", "has no attribute 'nothing'"),
        ("tests.unit.test_sources:threads_seen", "is a list, not a function"),
        ("os:system('true')", "cannot be imported"),
    ],
)
def test_what_a_triggerer_could_not_import_is_refused(source: Any, message: str) -> None:
    with pytest.raises(SourceNotImportable, match=message.replace("(", r"\(").replace(")", r"\)")):
        source_path(source)


def test_a_module_in_the_dag_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_beside_dags.py").write_text("def source():\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    with pytest.raises(SourceNotImportable, match="lies in a DAG folder.*Move the source"):
        source_path("only_beside_dags:source")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert source_path("only_beside_dags:source") == "only_beside_dags:source"


SHOP = """
from functools import wraps

def orders(): ...
async def changes(): yield 1

class Api:
    def __init__(self): ...
    @classmethod
    def pages(cls): ...

class Other(Api): ...

def logged(function):
    @wraps(function)
    def wrapper(): ...
    return wrapper

decorated = logged(orders)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the plugins folder, as a DAG file has imported it before Airflow loads the plugins."""
    (tmp_path / "shop_plugin.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("shop_plugin")
    yield module
    del sys.modules["shop_plugin"]


@pytest.mark.parametrize("loaded", ["before", "after"])
@pytest.mark.parametrize("name", ["orders", "changes", "Api", "Api.pages"])
def test_a_source_stays_the_same_when_airflow_loads_its_module_again(
    shop: Any, tmp_path: Path, name: str, loaded: str
) -> None:
    if loaded == "before":
        _load_plugins_from_plugin_directory(plugins_folder=str(tmp_path))
        shop = importlib.import_module("shop_plugin")
    source = attrgetter(name)(shop)
    if loaded == "after":
        _load_plugins_from_plugin_directory(plugins_folder=str(tmp_path))
        assert import_source(f"shop_plugin:{name}") is not source
    assert source_path(source) == f"shop_plugin:{name}"


def test_another_thing_of_the_same_name_is_no_source(shop: Any, tmp_path: Path) -> None:
    copy = types.ModuleType("shop_plugin")
    exec(compile(SHOP, str(tmp_path / "dags" / "shop_plugin.py"), "exec"), vars(copy))
    inherited = shop.Other.pages
    for other in (shop.decorated, copy.orders, copy.Api, inherited):
        with pytest.raises(SourceNotImportable, match="is something else than the function given"):
            source_path(other)
