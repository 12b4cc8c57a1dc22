"""Airflow's logging, in a process that Airflow has not started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping


def log_through_standard_library() -> None:
    """Have what the SDK and DAG files log by structlog go to the loggers of the standard library."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.format_exc_info,
            _as_text,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _as_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    text, exception = event.pop("event", ""), event.pop("exception", None)
    details = "".join(f" {name}={value!r}" for name, value in event.items())
    return f"{text}{details}\n{exception}" if exception else f"{text}{details}"
