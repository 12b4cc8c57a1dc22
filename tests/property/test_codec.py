"""Items come back as they were, or are refused by number."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deferred_expand.committing.codec import decode_item, encode_batches, encode_item
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import ItemNotSerializable, ItemTooLarge
from deferred_expand.streams.commit_index import batch_name
from deferred_expand.streams.ref import StreamRef
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow

# Keys that mean something to Airflow's own encodings, and strings that are no valid UTF-8.
keys = st.sampled_from(["__type", "__var", "__classname__", "__version__", "__data__"]) | st.text(max_size=5)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.text(alphabet=st.characters(categories=["Cs"]), max_size=1)
)  # fmt: skip
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_comes_back_as_it_was(item: Any) -> None:
    text = encode_item(item, 1)
    assert decode_item(text) == item


def test_two_surrogates_become_the_character_they_stand_for() -> None:
    assert decode_item(encode_item("\ud83d\ude00", 1)) == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "item",
    [
        (1, 2),
        {1, 2},
        frozenset({1}),
        datetime(2026, 1, 2, tzinfo=timezone.utc),
        [(1,)],
        {"d": Decimal("1.5")},
    ],
)
def test_what_serde_can_write_comes_back_with_its_type(item: Any) -> None:
    back = decode_item(encode_item(item, 1))
    assert back == item
    assert type(back) is type(item)


class Unknown:
    pass


@pytest.mark.parametrize(
    "item",
    [
        object(), Unknown(), float("nan"), float("inf"), [float("nan")],
        {"__classname__": date(2026, 1, 1)}, lambda: None,
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_named_by_its_number(item: Any) -> None:
    with pytest.raises(ItemNotSerializable, match="item 7 of the stream"):
        encode_item(item, 7)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(json_values | st.dates() | st.text(max_size=40), max_size=30), st.integers(30, 300))
def test_no_batch_passes_the_size_limit_where_it_is_stored(
    monkeypatch: pytest.MonkeyPatch, items: list[Any], limit: int
) -> None:
    encoded = encode_batches(items, 1, limit)
    kept = [decode_item(text) for batch in encoded.batches for text in batch]
    assert kept == items[: len(kept)]
    assert all(encoded.batches), "no empty batch"
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    for number, (batch, size) in enumerate(zip(encoded.batches, encoded.sizes, strict=True)):
        StreamStore(StreamRef(DAG_ID, RUN_ID, "users", None)).write_batch(batch_name(number, "w"), batch)
        stored = list(airflow.tables.xcoms.values())[number]
        assert len(stored.encode()) == size <= limit
    if len(kept) < len(items):
        assert isinstance(encoded.error, ItemTooLarge)
        assert len(json.dumps([encode_item(items[len(kept)], 1)])) > limit


def test_an_item_too_large_is_named_and_those_before_it_are_kept() -> None:
    encoded = encode_batches(["a", "b" * 100, "c"], first_number=5, max_bytes=50)
    assert encoded.batches == [['"a"']]
    assert isinstance(encoded.error, ItemTooLarge)
    assert "item 6 of the stream is 108 bytes" in str(encoded.error)
    assert "max_batch_bytes (50)" in str(encoded.error)
