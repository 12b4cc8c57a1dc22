"""Where a DAG lies, for who loads it once more."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DagFile:
    """
    :param bundle: its name.
    :param version: of the bundle; ``None`` where it has none, and its current files count.
    :param path: of the file, relative to the bundle's folder.
    """

    bundle: str
    version: str | None
    path: str

    def __str__(self) -> str:
        version = "" if self.version is None else f" in version {self.version}"
        return f"{self.path!r} of DAG bundle {self.bundle!r}{version}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
