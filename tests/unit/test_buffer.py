"""Positions are exact wherever a run of items ends."""

from __future__ import annotations

from deferred_expand.streams.buffer import PageBuffer
from deferred_expand.streams.page import Page, Position


def test_a_run_may_end_inside_a_page() -> None:
    buffer = PageBuffer()
    buffer.add_page(Page([1, 2, 3], cursor="a"), now=0)
    buffer.add_page(Page([4, 5, 6], cursor="b"), now=0)
    assert buffer.peek(4) == [1, 2, 3, 4]
    assert buffer.drop(4) == Position("a", 1)
    assert buffer.drop(2) == Position("b", 0)


def test_a_page_without_a_cursor_is_counted_from_the_cursor_before() -> None:
    buffer = PageBuffer()
    buffer.add_page(Page([1, 2], cursor="a"), now=0)
    buffer.add_page(Page([3, 4]), now=0)
    buffer.add_item(5, now=0)
    assert buffer.drop(5) == Position("a", 3)


def test_empty_pages_move_the_cursor_and_take_no_room() -> None:
    buffer = PageBuffer()
    for number in range(10_000):
        buffer.add_page(Page([], cursor=number), now=0)
    buffer.add_page(Page(["x"], cursor="end"), now=0)
    assert len(buffer) == 1
    assert buffer.drop(1) == Position("end", 0)


def test_a_reopened_source_is_passed_over_up_to_where_it_broke() -> None:
    buffer = PageBuffer()
    buffer.add_page(Page([1, 2], cursor="a"), now=0)
    buffer.add_item(3, now=0)
    assert buffer.reopen() == Position("a", 1)
    for item in (3, 4):
        buffer.add_item(item, now=0)
    assert buffer.peek(9) == [1, 2, 3, 4]


def test_pages_that_are_cut_in_other_places_when_it_is_opened_again() -> None:
    buffer = PageBuffer(Position("start", 7))
    buffer.add_page(Page([0, 1, 2, 3, 4], cursor="five"), now=0)
    assert buffer.end == buffer.position == Position("five", 2), "all seven are taken"
    buffer.add_page(Page([5, 6, 7], cursor="eight"), now=0)
    buffer.add_page(Page([8, 9], cursor="ten"), now=0)
    assert buffer.peek(9) == [7, 8, 9]
    assert buffer.drop(1) == Position("eight", 0)
    assert buffer.drop(1) == Position("eight", 1)


def test_cursors_do_not_count_for_a_source_that_takes_none() -> None:
    buffer = PageBuffer(resumable=False)
    buffer.add_page(Page([1, 2], cursor="a"), now=0)
    assert buffer.drop(2) == Position(None, 2)


def test_the_oldest_item_keeps_its_age() -> None:
    buffer = PageBuffer()
    assert buffer.oldest is None
    buffer.add_page(Page([1, 2]), now=10)
    buffer.add_item(3, now=20)
    buffer.drop(1)
    assert buffer.oldest == 10
    buffer.drop(1)
    assert buffer.oldest == 20
    buffer.drop(1)
    assert buffer.oldest is None


def test_an_empty_page_without_a_cursor_changes_nothing() -> None:
    buffer = PageBuffer()
    buffer.add_page(Page([1, 2], cursor="a"), now=0)
    buffer.add_page(Page([]), now=0)
    assert buffer.end == Position("a", 0)
    assert buffer.drop(2) == Position("a", 0)
