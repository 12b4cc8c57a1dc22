"""The test's end of the items of ``dags/iterated.py``."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.e2e.runs import Run

if TYPE_CHECKING:
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow

Notes = dict[str, dict[int, list[float]]]


class Told:
    """What items do, and have done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tell(self, what: str, index: int) -> None:
        (self._folder / f"{what} {index}").touch()

    def take_back(self, what: str, index: int) -> None:
        (self._folder / f"{what} {index}").unlink()

    def notes(self) -> Notes:
        """When something happened to an item, each time."""
        found: Notes = defaultdict(lambda: defaultdict(list))
        for what, index, at, _ in self._lines():
            found[what][int(index)].append(float(at))
        return found

    def ended(self) -> dict[int, int]:
        """How often each item has."""
        return {index: len(times) for index, times in sorted(self.notes()["end"].items())}

    def process(self) -> int:
        """In which an item ran last."""
        return int(self._lines()[-1][3])

    def _lines(self) -> list[list[str]]:
        path = self._folder / "notes"
        return [line.rsplit(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []


def start(airflow: LocalAirflow, dag_id: str, folder: Path, **conf: Any) -> tuple[Run, Told]:
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"folder": str(folder), **conf})
    return Run(airflow, dag_id, run_id), Told(folder)
