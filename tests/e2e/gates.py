"""The test's end of :func:`tests.e2e.sources.gated`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Gates:
    """Lets one page after the other out of a gated source."""

    def __init__(self, folder: Path, pages: int = 0) -> None:
        self.folder = folder
        self._pages = pages

    def open(self, items: int) -> None:
        written = self.folder / f"{self._pages}.new"
        written.write_text(str(items))
        written.rename(self.folder / str(self._pages))
        self._pages += 1

    def end(self) -> None:
        self.open(0)

    @property
    def asked(self) -> list[int]:
        """The pages that the source has given, in order, again when it gave them again."""
        return self._lines("asked")

    @property
    def closed(self) -> list[int]:
        """The pages that the source waited for when it was closed before its end."""
        return self._lines("closed")

    def _lines(self, name: str) -> list[int]:
        path = self.folder / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []
