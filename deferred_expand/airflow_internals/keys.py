"""The keys that Airflow encrypts connections and variables with: ``[core] fernet_key``."""

from __future__ import annotations

from airflow.sdk.configuration import conf
from airflow.sdk.crypto import get_fernet
from cryptography.fernet import Fernet, InvalidToken


class WrongKey(ValueError):
    """None of the keys that are configured here opens it."""


def has_key() -> bool:
    """Without one Airflow encrypts nothing (airflow/sdk/crypto.py, ``_NullFernet``)."""
    return get_fernet().is_encrypted


def encrypt(text: str) -> str:
    return get_fernet().encrypt(text.encode()).decode()


def decrypt(text: str) -> str:
    """:raises WrongKey:"""
    try:
        return get_fernet().decrypt(text.encode()).decode()
    except InvalidToken as error:
        raise WrongKey("[core] fernet_key does not open it") from error


def opens_with_first_key(text: str) -> bool:
    """Whether it still opens once the keys behind the first one, which are there for a change, are gone."""
    if not has_key():
        return True
    first = conf.get("core", "fernet_key").partition(",")[0]
    try:
        Fernet(first.encode()).decrypt(text.encode())
    except InvalidToken:
        return False
    return True
