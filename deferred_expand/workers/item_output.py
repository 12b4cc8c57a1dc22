"""What items print: each line tells whose it is."""

from __future__ import annotations

import io
import sys
import threading
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from deferred_expand.airflow_internals.items import item_here

if TYPE_CHECKING:
    from collections.abc import Iterator


class MarkedOutput(io.TextIOBase):
    """
    In place of a standard stream, which items share: their lines come whole, and marked.

    :param stream: that they go to. Airflow makes a line of the log of each of its lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun: dict[int, str] = {}
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        item = item_here()
        if item is None:
            return self._stream.write(text)
        with self._lock:
            *lines, rest = (self._begun.pop(item, "") + text).split("\n")
            if rest:
                self._begun[item] = rest
            if lines:
                self._stream.write("".join(_marked(item, line) for line in lines))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        """Give also the lines that nobody has ended."""
        with self._lock:
            self._stream.write("".join(_marked(item, line) for item, line in self._begun.items()))
            self._begun.clear()
        self._stream.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


def _marked(item: int, line: str) -> str:
    return f"[item {item}] {line}\n"


@contextmanager
def marked_output() -> Iterator[None]:
    """Of everything that is printed within."""
    with ExitStack() as streams:
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            output = MarkedOutput(stream)
            streams.enter_context(redirect(output))
            streams.callback(output.end)
        yield
