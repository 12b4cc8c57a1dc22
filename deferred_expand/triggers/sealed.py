"""
What a worker has sealed, where the keys may be others.

Airflow asks of nobody that workers have the triggerers' ``[core] fernet_key``; and keys are changed. What
cannot be unsealed here, or can only as long as an old key is listed, goes back to a worker.
"""

from __future__ import annotations

import time
from typing import Any

from deferred_expand.sources.sealing import key_here, seal_state

WORTH_SEALING_ANEW = 600.0  # seconds since it was last done; a trigger begins within them, mostly


class SealedElsewhere(Exception):
    """
    A worker is asked to seal anew what the trigger was given.

    :param helps: ``False``: that was done just now, and is of no use.
    """

    def __init__(self, *, helps: bool) -> None:
        super().__init__(f"sealed with another key, and {key_here()}")
        self.helps = helps

    def to_json(self, stream: str) -> dict[str, Any]:
        return {"stream": stream, "sealed_elsewhere": key_here(), "helps": self.helps}


def require_seal(sealed: Any, sealed_anew: float | None) -> None:
    """
    Takes a thread: at its first call Airflow may ask a command or a secrets backend for its keys.

    :param sealed: arguments, a cursor; what is not sealed passes.
    :param sealed_anew: when a worker has done so on request, in seconds since the epoch.
    :raises SealedElsewhere: a worker is needed.
    """
    if not isinstance(sealed, str):
        return
    state = seal_state(sealed)
    helps = sealed_anew is None or time.time() - sealed_anew > WORTH_SEALING_ANEW
    if state == "foreign" or (state == "old" and helps):
        raise SealedElsewhere(helps=helps)
