"""A source's arguments on their way to the triggerer: data as it is, functions and classes by name."""

from __future__ import annotations

import json
from typing import Any, cast

from deferred_expand.airflow_internals.sdk import (
    decrypt,
    encrypt,
    mask_secret,
    serde_deserialize,
    serde_serialize,
    should_hide_value_for_key,
)
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.importing import import_source, source_path

_BY_NAME = "deferred_expand.import"


def pack(value: Any) -> Any:
    """
    Replace functions and classes, also within dicts and lists, by their importable names.

    :raises SourceNotImportable: one of them only exists in the DAG file.
    """
    if isinstance(value, dict):
        return {key: pack(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(pack(inner) for inner in value)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return {_BY_NAME: source_path(value)}
    return value


def unpack(value: Any) -> Any:
    """What :func:`pack` made, with the functions and classes imported."""
    if isinstance(value, dict):
        if set(value) == {_BY_NAME}:
            return import_source(value[_BY_NAME])
        return {key: unpack(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(unpack(inner) for inner in value)
    return value


def seal(arguments: dict[str, Any]) -> str:
    """
    Write arguments so that nobody reads them in the database.

    Airflow keeps the arguments of a deferred task's trigger as they are, its encryption apart
    (airflow/api_fastapi/execution_api/routes/task_instances.py, 3.2.2 and 3.3.2).
    """
    return encrypt(json.dumps(serde_serialize(arguments)))


def unseal(sealed: str | dict[str, Any]) -> dict[str, Any]:
    """What :func:`seal` wrote; what was never sealed, as it is."""
    if isinstance(sealed, dict):
        return sealed
    return cast("dict[str, Any]", serde_deserialize(json.loads(decrypt(sealed))))


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
        pack(value)
    except SourceNotImportable:
        return False
    return True
