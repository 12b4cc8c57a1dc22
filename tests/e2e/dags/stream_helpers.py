"""A module beside DAG files, which only what loads these can import."""

from __future__ import annotations


def is_wanted(number: int) -> bool:
    return number != 3


def shout(word: str) -> str:
    return word.upper()
