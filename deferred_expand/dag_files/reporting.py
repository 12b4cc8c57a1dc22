"""What code of DAG files logs and prints, sent to the trigger runner, whose logs it goes to."""

from __future__ import annotations

import io
import logging
import sys
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.logs import log_through_standard_library
from deferred_expand.dag_files.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar


def report_here(tell: Callable[[Frame], None], stream: ContextVar[int]) -> None:
    """In a DAG file process: have all that is logged or printed told."""
    handler = _Reporting(tell, stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.root.handlers = [handler]
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True
    log_through_standard_library()
    sys.stdout = _Lines(logging.getLogger("stdout"), logging.INFO)
    sys.stderr = _Lines(logging.getLogger("stderr"), logging.WARNING)


class _Reporting(logging.Handler):
    def __init__(self, tell: Callable[[Frame], None], stream: ContextVar[int]) -> None:
        super().__init__()
        self._tell = tell
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            body = [record.name, record.levelno, self.format(record)]
            self._tell(Frame("log", self._stream.get(), body))
        except Exception:  # the runner is gone, and so is this process
            return


class _Lines(io.TextIOBase):
    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line:
                self._logger.log(self._level, "%s", line)
        return len(text)
