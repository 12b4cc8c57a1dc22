"""Calls that block, made from the triggerer's event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from typing_extensions import ParamSpec

from deferred_expand.walking.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

shared_threads = Threads("deferred_expand", 16)  # for calls on Airflow, and XCom backends that block


async def call_in_thread(call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call what blocks, on Airflow mostly."""
    return await shared_threads.run(call, *args, **kwargs)
