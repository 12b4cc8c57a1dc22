"""Laws of streams, against plain Python lists."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deferred_expand.streams.buffer import PageBuffer
from deferred_expand.streams.commit_log import (
    INDEX_SPAN,
    CommitLog,
    IndexPage,
    batch_name,
    locate,
    plan_commit,
    span_of,
)
from deferred_expand.streams.events import BatchEvent
from deferred_expand.streams.page import Page, Position

# A source is a list of parts: an int is that many single items, a pair is a page with or without cursor.
parts = st.lists(
    st.integers(1, 4) | st.tuples(st.integers(0, 5), st.booleans()),
    max_size=8,
)


def play(source: list[Any], buffer: PageBuffer, cursor: int | None) -> None:
    """Give the source's items, numbered, into the buffer; a cursor is the number of parts done."""
    number = 0
    for index, part in enumerate(source, 1):
        count, has_cursor = part if isinstance(part, tuple) else (part, False)
        items = list(range(number, number + count))
        number += count
        if cursor is not None and index <= cursor:
            continue
        if isinstance(part, tuple):
            buffer.add_page(Page(items, cursor=index if has_cursor else None), now=0)
        else:
            for item in items:
                buffer.add_item(item, now=0)


def size(source: list[Any]) -> int:
    return sum(part[0] if isinstance(part, tuple) else part for part in source)


@given(parts, st.lists(st.integers(1, 6)), st.booleans())
def test_resuming_at_any_position_gives_exactly_the_rest(
    source: list[Any], cuts: list[int], resumable: bool
) -> None:
    everything = list(range(size(source)))
    buffer = PageBuffer(resumable=resumable)
    play(source, buffer, None)
    taken = 0
    for cut in cuts:
        run = buffer.peek(cut)
        assert run == everything[taken : taken + cut]
        position = buffer.drop(len(run))
        taken += len(run)

        resumed = PageBuffer(position, resumable=resumable)
        play(source, resumed, position.cursor if resumable else None)  # type: ignore[arg-type]
        assert not resumed.still_to_pass_over
        assert resumed.peek(len(everything)) == everything[taken:]


@given(parts, st.data())
def test_a_source_opened_again_in_the_middle_repeats_nothing(source: list[Any], data: st.DataObject) -> None:
    everything = list(range(size(source)))
    broken_after = data.draw(st.integers(0, len(source)))
    buffer = PageBuffer()
    play(source[:broken_after], buffer, None)
    play(source, buffer, buffer.reopen().cursor)  # type: ignore[arg-type]
    assert buffer.peek(len(everything)) == everything


histories = st.lists(st.lists(st.integers(1, 3 * INDEX_SPAN), min_size=1, max_size=4), max_size=12)


@given(histories, st.data())
def test_every_committed_item_can_be_found(history: list[list[int]], data: st.DataObject) -> None:
    log = CommitLog("s")
    pages: dict[int, IndexPage] = {}
    where: list[tuple[str, int]] = []  # of each item: its batch, and its place there
    for writer, counts in enumerate(history):
        event = BatchEvent("s", str(writer), log.batches, tuple(counts), Position())
        for number, count in enumerate(counts, log.batches):
            where += [(batch_name(number, str(writer)), place) for place in range(count)]
        plan = plan_commit(log, event, try_number=1)
        assert plan is not None
        pages.update(plan.full_pages)
        log = CommitLog.from_json(json.loads(json.dumps(plan.log.to_json())))
    assert log.items == len(where)
    if where:
        for item in data.draw(st.lists(st.integers(1, len(where)), max_size=30)):
            page = log.tail if span_of(item) == log.tail_span else pages[span_of(item)]
            assert locate(page, item) == where[item - 1]


@given(st.integers(1, 5000))
def test_the_commit_log_stays_small(batches: int) -> None:
    log = CommitLog("s" * 32)
    event = BatchEvent("s" * 32, "w" * 12, 0, (1,) * batches, Position())
    plan = plan_commit(log, event, try_number=1)
    assert plan is not None
    assert len(plan.log.tail) < INDEX_SPAN
    assert all(len(page) <= INDEX_SPAN for page in plan.full_pages.values())
