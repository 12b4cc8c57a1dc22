"""Items as text, one by one, so that one item of a batch can be read without the others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import AirflowSkipException, serde_deserialize, serde_serialize
from deferred_expand.exceptions import ItemError, ItemNotSerializable, ItemTooLarge
from deferred_expand.streams.page import SkippedItem, WrittenItem
from deferred_expand.walking.staging import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

_SERDE = "serde:"  # no JSON text begins like this
_SKIPPED = "skipped:"


def encode_item(item: Any, number: int) -> str:
    """
    Write an item down: as plain JSON where that gives the same item back, else as serde does.

    Plain JSON first also keeps keys that mean something to serde (``__type``) what they are.

    :raises ItemNotSerializable: naming the item's number.
    """
    if isinstance(item, WrittenItem):
        if item.error is not None:
            raise ItemNotSerializable(f"item {number} of the stream {item.error}")
        return item.text
    if isinstance(item, SkippedItem):
        return _SKIPPED + json.dumps(item.reason)
    try:
        text = json.dumps(item, allow_nan=False, separators=(",", ":"))
        if json.loads(text) == item:
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return _SERDE + json.dumps(serde_serialize(item), allow_nan=False, separators=(",", ":"))
    except Exception as error:
        raise ItemNotSerializable(f"item {number} of the stream {_why(item, error)}") from error


def write_item(item: Any) -> WrittenItem:
    """Write an item down whose number is not known here."""
    try:
        return WrittenItem(encode_item(item, 0))
    except ItemNotSerializable as error:
        return WrittenItem("", _why(item, error.__cause__))


def _why(item: Any, error: BaseException | None) -> str:
    return f"({type(item).__name__}) cannot be put in an XCom: {error}"


def decode_item(text: str) -> Any:
    """:raises AirflowSkipException: the item's instance shall be skipped."""
    if text.startswith(_SKIPPED):
        raise AirflowSkipException(_reason(text))
    if text.startswith(_SERDE):
        return serde_deserialize(json.loads(text[len(_SERDE) :]))
    return json.loads(text)


def decode_or_skipped(text: str) -> Any:
    """The same, for a stream made of this one: what is skipped stays so."""
    return SkippedItem(_reason(text)) if text.startswith(_SKIPPED) else decode_item(text)


def _reason(text: str) -> str:
    return str(json.loads(text.removeprefix(_SKIPPED)))


def stored_size(text: str) -> int:
    """
    Bytes of an item's text in its batch, its share of commas and brackets included.

    A batch is stored as JSON: the SDK leaves a list of strings as it is (airflow/sdk/bases/xcom.py,
    ``serialize_value``), and the column, like a backend's file, holds ``json.dumps`` of it.
    """
    return len(json.dumps(text)) + len(", ")


def encode_batches(items: Sequence[Any], first_number: int, max_bytes: int) -> Encoded:
    """
    Write items down and cut them into batches, up to the first bad one.

    :param max_bytes: that a batch may have where it is stored.
    """
    encoded = Encoded([], [])
    for number, item in enumerate(items, first_number):
        try:
            text = encode_item(item, number)
            size = stored_size(text)
            if size > max_bytes:
                raise ItemTooLarge(
                    f"item {number} of the stream is {size:,} bytes, more than a whole batch may "
                    f"have: let the source give smaller items, or raise [deferred_expand] "
                    f"max_batch_bytes ({max_bytes:,})"
                )
        except ItemError as error:
            return replace(encoded, error=error)
        if not encoded.batches or encoded.sizes[-1] + size > max_bytes:
            encoded.batches.append([])
            encoded.sizes.append(0)
        encoded.batches[-1].append(text)
        encoded.sizes[-1] += size
    return encoded
