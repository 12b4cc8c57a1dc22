"""What reading a stream costs, and that an index means the same whatever it costs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.execution_time.comms import GetXCom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deferred_expand.shaping.follow import CommittedStream
from deferred_expand.shaping.steps import Step
from deferred_expand.streams import commit_index
from deferred_expand.streams.page import SkippedItem
from deferred_expand.walking.threads import Threads
from deferred_expand.workers import reader
from deferred_expand.workers.items import StreamItems
from deferred_expand.workers.reader import StreamReader
from tests.memory_airflow import MemoryAirflow
from tests.unit.parent import HEAD, Parent

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES, SIZE = 20, 100
INDEXED = BATCHES // commit_index.INDEX_ENTRIES  # index pages


def is_even(number: int) -> bool:
    return number % 2 == 0


def twice(number: int) -> list[int]:
    return [number, -number]


EVEN, TWICE = Step.of("filter", is_even), Step.of("flat_map", twice)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    return airflow


@pytest.fixture
def parent(airflow: MemoryAirflow) -> Parent:
    """One that has ended."""
    parent = Parent(airflow)
    parent.open()
    for first in range(0, BATCHES * SIZE, SIZE):
        parent.commit(*range(first, first + SIZE), ended=first + SIZE == BATCHES * SIZE)
    airflow.requests.clear()
    return parent


def asked(airflow: MemoryAirflow) -> int:
    return sum(airflow.requests.values())


def by_index(items: Any) -> list[Any]:
    return [items[index] for index in range(len(items))]


@pytest.mark.parametrize(
    "read",
    [
        list,
        by_index,
        lambda items: list(reversed(items))[::-1],
        lambda items: items[:],
        lambda items: [item for item in items],
    ],
)
def test_a_stream_is_read_with_a_request_for_each_batch(
    airflow: MemoryAirflow, parent: Parent, read: Callable[[Any], list[int]]
) -> None:
    assert read(StreamReader(parent.store, (), drops=False)) == list(range(BATCHES * SIZE))
    assert asked(airflow) <= BATCHES + 5, "its states, its log, and its batches"


@pytest.mark.parametrize("steps", [(EVEN,), (TWICE,), (EVEN, TWICE), ()])
def test_a_shaped_stream_is_read_twice_when_its_length_is_asked_for(
    airflow: MemoryAirflow, parent: Parent, steps: tuple[Step, ...]
) -> None:
    shaped = StreamReader(parent.store, steps, drops=True)
    assert by_index(shaped) == list(shaped)
    assert asked(airflow) <= 3 * BATCHES + 5


def test_any_item_is_had_with_a_request_for_its_batch(airflow: MemoryAirflow, parent: Parent) -> None:
    items = StreamReader(parent.store, (), drops=False)
    for index in random.Random(1).sample(range(BATCHES * SIZE), 50):
        assert items[index] == index
    assert asked(airflow) <= 50 + 5
    with pytest.raises(IndexError):
        items[BATCHES * SIZE]
    assert items[-1] == BATCHES * SIZE - 1


def test_an_instance_that_reads_all_items_reads_each_batch_once(
    airflow: MemoryAirflow, parent: Parent
) -> None:
    items = StreamItems(parent.store)
    assert list(items) == items[1:] == list(range(BATCHES * SIZE))
    assert asked(airflow) <= 2 * BATCHES + 1


@pytest.mark.asyncio
async def test_following_a_stream_of_single_items_costs_a_request_for_each_and_few_for_its_index(
    airflow: MemoryAirflow,
) -> None:
    parent = Parent(airflow)
    parent.open()
    for number in range(300):
        parent.commit(number, ended=number == 299)
    parent.states[HEAD] = "success"
    airflow.requests.clear()
    thread = Threads("test")
    followed = [item async for items in CommittedStream(parent.ref, thread).batches(0) for item in items]
    thread.close()
    assert followed == list(range(300))
    assert airflow.requests[GetXCom] <= 300 + 300 // commit_index.INDEX_ENTRIES + 3


batches = st.lists(
    st.lists(st.integers(0, 9) | st.builds(SkippedItem, st.just("")), min_size=1, max_size=4), max_size=12
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches, st.sampled_from([(), (EVEN,), (TWICE,), (TWICE, EVEN)]), st.data())
def test_an_index_means_the_same_as_in_the_list(
    monkeypatch: pytest.MonkeyPatch,
    content: list[list[Any]],
    steps: tuple[Step, ...],
    data: st.DataObject,
) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    monkeypatch.setattr(reader, "MOST_PLACES", 3)
    monkeypatch.setattr(commit_index, "INDEX_ENTRIES", 2)
    parent = Parent(airflow)
    parent.open()
    for batch in content:
        parent.commit(*batch)
    parent.commit(ended=True)
    skips = any(isinstance(item, SkippedItem) for batch in content for item in batch)
    items = StreamReader(parent.store, steps, drops=skips or data.draw(st.booleans()))
    expected = [item for batch in content for item in batch if not isinstance(item, SkippedItem)]
    for step in steps:
        expected = [
            shaped
            for item in expected
            for shaped in (twice(item) if step is TWICE else [item] * is_even(item))
        ]
    for index in data.draw(st.lists(st.integers(-60, 60), max_size=20)):
        if -len(expected) <= index < len(expected):
            assert items[index] == expected[index]
        else:
            with pytest.raises(IndexError):
                items[index]
    assert list(items) == expected
    assert len(items) == len(expected)
    assert items[2:-1:2] == expected[2:-1:2]
