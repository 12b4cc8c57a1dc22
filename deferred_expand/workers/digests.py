"""Whether an item is given what it was given before."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from deferred_expand.airflow_internals.sdk import serde_serialize

DIGEST_BYTES = 6
_UNORDERED = ('"builtins.set"', '"builtins.frozenset"')


def digest_of(value: Any) -> str:
    """Empty where the value has no form that is the same in every process: sets, functions, most objects."""
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        text = _by_serde(value)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest() if text else ""


def _by_serde(value: Any) -> str:
    try:
        text = json.dumps(serde_serialize(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except Exception:  # whatever a foreign serializer raises
        return ""
    return "" if any(name in text for name in _UNORDERED) else text
