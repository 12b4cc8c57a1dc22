"""A limit for what blocks on a worker."""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Rang(BaseException):
    """Goes through what catches an author's errors, as Airflow's own does."""


@contextmanager
def alarm(seconds: float, error: Exception) -> Iterator[None]:
    """
    Raise the error in this block when the time is over.

    By a signal, as Airflow limits a task (airflow/sdk/execution_time/timeout.py), whose alarm goes on and
    comes first if it is due first. Where there is none, or in another thread than the main one, as
    in a test of an author's, nothing is limited.
    """
    limited = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    outer = signal.getitimer(signal.ITIMER_REAL)[0] if limited and seconds < math.inf else 0.0
    if not limited or seconds == math.inf or 0 < outer <= seconds:
        yield
        return

    def ring(*_: Any) -> None:
        raise _Rang

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it may ring until here
    except _Rang:
        raise error from None
    finally:
        signal.signal(signal.SIGALRM, handler)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, outer - (time.monotonic() - began)))
