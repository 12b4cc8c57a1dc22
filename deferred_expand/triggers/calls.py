"""Calls that block, made from the triggerer's event loop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from deferred_expand.walking.threads import P, R, Threads

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# For calls on Airflow only: what runs an author's code, or an XCom backend, has a thread of its own.
shared_threads = Threads("deferred_expand", 16)
call_in_thread = shared_threads.run

IMPORT_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before a failed import is tried again


async def import_in_thread(thread: Threads, find: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """
    Call what imports, in a thread, and again after some seconds when it fails.

    The DAG parser could import it. Here a module may be half loaded at this moment (see
    ``airflow_internals.plugins``), or a file being written.

    :raises Exception: what the last call raises.
    """
    for pause in IMPORT_PAUSES:
        try:
            return await thread.run(find, *args, **kwargs)
        except Exception as error:
            log.warning("an import raised %r; it is tried again in %g s", error, pause, exc_info=True)
        await asyncio.sleep(pause)
    return await thread.run(find, *args, **kwargs)
