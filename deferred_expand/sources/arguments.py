"""A source's arguments on their way to the triggerer: data as it is, functions and classes by name."""

from __future__ import annotations

from typing import Any

from deferred_expand.airflow_internals.sdk import mask_secret, should_hide_value_for_key
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.importing import import_source, source_path
from deferred_expand.sources.plain_json import Place, rebuild


def pack(arguments: dict[str, Any]) -> dict[str, Any]:
    """
    Take functions and classes out of arguments, also out of dicts and lists in them, and name them beside.

    Beside, and not in their places: data from elsewhere must not be able to name code.

    :raises SourceNotImportable: one of them only exists in the DAG file.
    """
    named: list[tuple[Place, str]] = []

    def name(part: Any, place: Place) -> Any:
        if isinstance(part, type) or (callable(part) and hasattr(part, "__qualname__")):
            named.append((place, source_path(part)))
            return None
        return part

    return {"arguments": rebuild(arguments, name), "named": named}


def unpack(packed: dict[str, Any]) -> dict[str, Any]:
    """What :func:`pack` was given, with the functions and classes imported."""
    named = {tuple(place): path for place, path in packed["named"]}

    def find(part: Any, place: Place) -> Any:
        return import_source(named[place]) if place in named else part

    arguments: dict[str, Any] = rebuild(packed["arguments"], find)
    return arguments


def mask(value: Any, name: str | None = None) -> None:
    """
    Have Airflow blot out what is secret by its name, from here on, in what this process logs.

    By itself Airflow does so for connections and variables, and for arguments only where it shows them.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            mask(inner, key)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            mask(inner, name)
    elif isinstance(value, str) and should_hide_value_for_key(name):
        mask_secret(value, name)


def can_travel(value: Any) -> bool:
    """Whether all functions and classes in a value can be imported in the triggerer."""
    try:
        pack({"": value})
    except SourceNotImportable:
        return False
    return True
