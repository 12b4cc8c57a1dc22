"""Stream a paged source into mapped task instances of Apache Airflow, page by page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deferred_expand.exceptions import DeferredExpandError, DefinitionError
from deferred_expand.sources.adapters import SourceAdapter, register_source_adapter
from deferred_expand.streams.page import Page
from deferred_expand.walking.retry import SourceRetry

if TYPE_CHECKING:
    from deferred_expand.operators.deferred_expand import DeferredExpandOperator
    from deferred_expand.operators.iterate import iterate
    from deferred_expand.operators.task_stream import stream
    from deferred_expand.operators.windows import StreamWindow, WindowRunOperator
    from deferred_expand.triggers.streaming import StreamingExpansionTrigger
    from deferred_expand.workers.window_results import window_results

__version__ = "0.1.0"

__all__ = [
    "DeferredExpandError",
    "DeferredExpandOperator",
    "DefinitionError",
    "Page",
    "SourceRetry",
    "SourceAdapter",
    "StreamWindow",
    "StreamingExpansionTrigger",
    "WindowRunOperator",
    "iterate",
    "stream",
    "register_source_adapter",
    "window_results",
]

# A source module needs Page only; it should not have to load Airflow.
_LAZY = {
    "DeferredExpandOperator": "deferred_expand.operators.deferred_expand",
    "StreamingExpansionTrigger": "deferred_expand.triggers.streaming",
    "StreamWindow": "deferred_expand.operators.windows",
    "WindowRunOperator": "deferred_expand.operators.windows",
    "iterate": "deferred_expand.operators.iterate",
    "stream": "deferred_expand.operators.task_stream",
    "window_results": "deferred_expand.workers.window_results",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
