"""Laws of streams, against plain Python lists."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deferred_expand.streams.buffer import PageBuffer
from deferred_expand.streams.commit_index import INDEX_ENTRIES, IndexPage, batch_name, locate
from deferred_expand.streams.commit_log import CommitLog, plan_commit
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


# Events, each with some batches of a size, and then of another one.
counts = st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 60)), min_size=1, max_size=3)
histories = st.lists(counts, max_size=30)


@given(histories, st.data())
def test_every_committed_item_is_found_in_few_reads_and_the_log_stays_small(
    history: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    log = CommitLog("s" * 32)
    pages: dict[str, IndexPage] = {}
    batches: list[tuple[int, str]] = []
    items = 0
    for event_number, runs in enumerate(history):
        writer = f"{event_number:012}"
        counts = tuple(count for count, times in runs for _ in range(times))
        for number, count in enumerate(counts, log.batches):
            batches.append((items + 1, batch_name(number, writer)))
            items += count
        plan = plan_commit(log, BatchEvent(log.stream, writer, log.batches, counts, Position()), 1)
        assert plan is not None
        assert not pages.keys() & plan.pages.keys(), "what the log has passed stays as it is"
        pages.update(plan.pages)
        written = json.dumps(plan.log.to_json())
        levels = math.ceil(math.log(log.batches + len(counts) + 1, INDEX_ENTRIES))
        assert len(written) < 1000 + levels * INDEX_ENTRIES * 32, "so much for an entry, and for all else"
        log = CommitLog.from_json(json.loads(written))
    assert log.items == items
    assert all(len(page) == INDEX_ENTRIES for page in pages.values())
    for first, name in data.draw(st.lists(st.sampled_from(batches), max_size=50)) if batches else []:
        end = dict(zip(batches, [*batches[1:], (items + 1, "")], strict=True))[first, name][0]
        read: list[str] = []

        def read_page(page: str) -> IndexPage:
            read.append(page)  # noqa: B023
            return pages[page]

        assert locate(log.index, data.draw(st.integers(first, end - 1)), read_page) == (first, name)
        assert len(read) <= max(0, math.log(log.batches, INDEX_ENTRIES))


@pytest.mark.parametrize("batches", [1, 31, 32, 33, 1023, 1024, 32_767, 100_000])
def test_the_commit_log_of_single_items_stays_small(batches: int) -> None:
    event = BatchEvent("s" * 32, "w" * 12, 0, (1,) * batches, Position())
    plan = plan_commit(CommitLog(event.stream), event, try_number=1)
    assert plan is not None
    assert len(json.dumps(plan.log.to_json())) < 2500
    for item in (1, batches // 2 + 1, batches):
        read: list[str] = []
        entry = locate(plan.log.index, item, lambda name: read.append(name) or plan.pages[name])  # type: ignore[func-returns-value]  # noqa: B023
        assert entry == (item, batch_name(item - 1, event.writer))
        assert len(read) <= 3
