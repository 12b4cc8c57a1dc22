"""A source's arguments on their way to the triggerer: data as it is, functions and classes by name."""

from __future__ import annotations

from typing import Any

from deferred_expand.airflow_internals.sdk import mask_secret, should_hide_value_for_key
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.importing import import_source, source_path
from deferred_expand.sources.plain_json import Place, rebuild

CONTEXT = "deferred_expand.context"  # among the arguments of a source; no name of a parameter
POSITIONAL = "*"  # among those of a function: what has no name


def pack(arguments: dict[str, Any], *, with_dag: bool = False) -> dict[str, Any]:
    """
    Take functions and classes out of arguments, also out of dicts and lists in them, and name them beside.

    Beside, and not in their places: data from elsewhere must not be able to name code.

    :param with_dag: they are unpacked where the DAG is loaded: what only its file has is taken from there.
    :raises SourceNotImportable: one of them only exists in the DAG file.
    """
    named: list[tuple[Place, str | None]] = []

    def name(part: Any, place: Place) -> Any:
        if isinstance(part, type) or (callable(part) and hasattr(part, "__qualname__")):
            named.append((place, _path(part, with_dag)))
            return None
        return part

    return {"arguments": rebuild(arguments, name), "named": named}


def _path(part: Any, with_dag: bool) -> str | None:
    try:
        return source_path(part)
    except SourceNotImportable:
        if not with_dag:
            raise
        return None


def unpack(packed: dict[str, Any], in_dag: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    What :func:`pack` was given, with the functions and classes imported.

    :param in_dag: the same arguments as the loaded DAG has them.
    :raises SourceNotImportable: they are not there any more.
    """
    named = {tuple(place): path for place, path in packed["named"]}

    def find(part: Any, place: Place) -> Any:
        if place not in named:
            return part
        return _at(place, in_dag) if named[place] is None else import_source(named[place])

    arguments: dict[str, Any] = rebuild(packed["arguments"], find)
    return arguments


def _at(place: Place, arguments: Any) -> Any:
    found = arguments
    try:
        for key in place:
            found = found[key]
    except (LookupError, TypeError):
        found = None
    if not callable(found):
        where = "".join(f"[{key!r}]" for key in place)
        raise SourceNotImportable(f"source_kwargs{where} of the DAG file is no function any more")
    return found


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
