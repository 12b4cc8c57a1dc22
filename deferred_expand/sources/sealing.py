"""What nobody shall read in Airflow's database, on its way from one process to another: sealed."""

from __future__ import annotations

from typing import Any, Literal

from deferred_expand.airflow_internals.keys import (
    WrongKey,
    decrypt,
    encrypt,
    has_key,
    opens_with_first_key,
)
from deferred_expand.exceptions import CannotUnseal
from deferred_expand.sources.plain_json import read, write

SealState = Literal["good", "old", "foreign"]
"""It opens with the first key that is set here; with one that is kept while keys change; with none."""


def seal(value: Any) -> str:
    """
    Write a value so that only who has Airflow's Fernet key reads it.

    Airflow keeps the arguments of a deferred task's trigger as they are, its encryption apart
    (airflow/api_fastapi/execution_api/routes/task_instances.py, 3.2.2 and 3.3.2), and XComs always.
    """
    return encrypt(write(value))


def unseal(sealed: str) -> Any:
    """
    What :func:`seal` was given.

    :raises CannotUnseal: it was sealed with another key.
    """
    return read(open_text(sealed))


def open_text(sealed: str) -> str:
    """The same as the plain JSON that it is (see ``plain_json``), of which nothing is imported."""
    try:
        return decrypt(sealed)
    except WrongKey as error:
        raise CannotUnseal(f"[core] fernet_key does not open it: {key_here()}") from error


def seal_state(sealed: str) -> SealState:
    """Whether, and for how long, this process can unseal it; nothing in it is imported."""
    try:
        decrypt(sealed)
    except WrongKey:
        return "foreign"
    return "good" if opens_with_first_key(sealed) else "old"


def key_here() -> str:
    """For messages."""
    return "another key is set here" if has_key() else "no key is set here"
