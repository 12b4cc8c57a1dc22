"""
Values as plain JSON, from which they come back as they were, whatever is in them.

Airflow's serde marks what it has made within the data (``__classname__``), so data from elsewhere could
name a class to it. Here what is no JSON lies beside the data, under its place in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import serde_deserialize, serde_serialize

if TYPE_CHECKING:
    from collections.abc import Callable

Place = tuple[str | int, ...]
"""Keys and indexes that lead to a value within another."""


def rebuild(value: Any, leaf: Callable[[Any, Place], Any], place: Place = ()) -> Any:
    """The same dicts, lists and tuples, with what the function makes of all that is none of these."""
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {key: rebuild(inner, leaf, (*place, key)) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(rebuild(inner, leaf, (*place, index)) for index, inner in enumerate(value))
    return leaf(value, place)


def write(value: Any) -> str:
    """:raises Exception: neither JSON nor serde can write something in it; as serde says it."""
    objects: list[tuple[Place, Any]] = []

    def plain(part: Any, place: Place) -> Any:
        if part is None or type(part) in (str, int, float, bool):
            return part
        objects.append((place, serde_serialize(part)))
        return None

    data = rebuild(value, plain)
    return json.dumps({"data": data, "tuples": list(_tuples(data, ())), "objects": objects})


def read(text: str) -> Any:
    """What :func:`write` wrote."""
    written = json.loads(text)
    objects = {tuple(place): value for place, value in written["objects"]}
    tuples = {tuple(place) for place in written["tuples"]}

    def restore(part: Any, place: Place) -> Any:
        if isinstance(part, dict):
            return {key: restore(inner, (*place, key)) for key, inner in part.items()}
        if isinstance(part, list):
            made = [restore(inner, (*place, index)) for index, inner in enumerate(part)]
            return tuple(made) if place in tuples else made
        return serde_deserialize(objects[place]) if place in objects else part

    return restore(written["data"], ())


def _tuples(value: Any, place: Place) -> list[Place]:
    found = [place] if isinstance(value, tuple) else []
    if isinstance(value, dict):
        inner: Any = value.items()
    else:
        inner = enumerate(value) if isinstance(value, (list, tuple)) else ()
    return found + [each for key, part in inner for each in _tuples(part, (*place, key))]
