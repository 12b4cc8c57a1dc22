"""How much a source in a DAG file process has given, as the stream counts, for one that waits for results."""

from __future__ import annotations

import pytest

from deferred_expand.dag_files.outlet import Outlet, PlainPages
from deferred_expand.streams.page import Page


@pytest.mark.parametrize(
    ("unit_size", "items", "counted"),
    [(1, 2, 4), (1, 0, 2), (100, 2, 3), (100, 250, 4), (100, 0, 2)],
)
def test_what_is_on_its_way_to_the_walk_is_counted(unit_size: int, items: int, counted: int) -> None:
    told: list[PlainPages] = []
    outlet = Outlet(told.append, reads_ahead=True, walked=2, unit_size=unit_size)
    if items:
        outlet.add(Page(list(range(items))))
    assert outlet.given == counted
    outlet.want(2)  # the runner is told of them, and has them when it asks for more
    assert outlet.given == counted
    outlet.want(counted)
    assert outlet.given == counted
    assert sum(len(page) for pages in told for page, _ in pages) == items


def test_of_windows_that_were_closed_early_there_are_as_many_as_the_walk_says() -> None:
    outlet = Outlet(lambda pages: None, reads_ahead=True, walked=0, unit_size=100)
    outlet.want(0)
    outlet.add(Page(list(range(150))))
    assert outlet.given == 1
    outlet.want(3)
    assert outlet.given == 3
