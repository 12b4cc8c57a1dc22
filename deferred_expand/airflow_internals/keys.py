"""The keys that Airflow encrypts connections and variables with: ``[core] fernet_key``."""

from __future__ import annotations

from functools import cache
from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.crypto import get_fernet
from cryptography.fernet import Fernet, InvalidToken

# How Fernet tokens begin: with their version, 0x80, and seconds since the epoch, in 64 bits.
_TOKEN = "gAAAA"


class WrongKey(ValueError):
    """None of the keys that are configured here opens it."""


def has_key() -> bool:
    """Without one Airflow encrypts nothing (airflow/sdk/crypto.py, ``_NullFernet``)."""
    return get_fernet().is_encrypted


def encrypt(text: str) -> str:
    return get_fernet().encrypt(text.encode()).decode()


def decrypt(text: str) -> str:
    """:raises WrongKey:"""
    if not has_key() and text.startswith(_TOKEN):
        raise WrongKey("[core] fernet_key is not set")
    try:
        return get_fernet().decrypt(text.encode()).decode()
    except InvalidToken as error:
        raise WrongKey("[core] fernet_key does not open it") from error


def opens_with_first_key(text: str) -> bool:
    """Whether it still opens once the keys behind the first one, which are there for a change, are gone."""
    if not has_key():
        return True
    try:
        keys: Any = get_fernet()
        _first_key(keys).decrypt(text.encode())
    except InvalidToken:
        return False
    return True


@cache
def _first_key(_all_keys: Any) -> Fernet:
    """Kept as long as Airflow keeps its own: the setting may be what a command or a secrets backend says."""
    return Fernet(conf.get("core", "fernet_key").partition(",")[0].encode())
