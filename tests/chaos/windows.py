"""Windows of a stream, and what became of them and of their runs when processes died meanwhile."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from deferred_expand.testing.local_airflow import wait_until
from tests.chaos.deployment import kill
from tests.chaos.whole import Struck

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.deployment import Deployment

ITEMS, WINDOW = 70, 6
CHILD = "chaotic_window"


@dataclass
class WindowsOutcome:
    """:attr:`complaints` is empty where the promise was kept."""

    faults: list[str] = field(default_factory=list)
    ran_again: int = 0
    """Items whose tasks were tried again, as their workers were killed."""
    complaints: list[str] = field(default_factory=list)


class WindowsRun(Struck):
    """
    :param committer: ``"triggerer"`` or ``"callback"``.
    :param seed: of the moments.
    """

    def __init__(self, deployment: Deployment, committer: str, seed: int) -> None:
        super().__init__(deployment)
        self._random = random.Random(f"{seed} {committer}")
        self._dag_id = f"chaotic_windows_{committer}"
        self.outcome = WindowsOutcome()
        for dag_id in (self._dag_id, CHILD):
            self._cluster.wait_for_dag(dag_id)
        self.run_id = self._cluster.trigger(self._dag_id, {"book": deployment.book, "items": ITEMS})

    def go(self, faults: Sequence[str]) -> WindowsOutcome:
        """One after the other, and each while windows are worked on."""
        for number, fault in enumerate(faults, 1):
            wait_until("windows are worked on", lambda: self._done() or self._open(), 150)
            time.sleep(self._random.uniform(0, 4))
            if self._done():
                self.outcome.complaints.append(f"it had ended before {fault}")
                break
            WINDOW_FAULTS[fault](self)
            self._deployment.restart_scheduler_if_given_up()
            self.outcome.faults.append(fault)
            wanted = min(ITEMS, number * ITEMS // (len(faults) + 1))
            wait_until(f"it goes on after {fault}", lambda: len(self._carried()) >= wanted, 240)  # noqa: B023
        wait_until("the run has ended", self._done, 400)
        self._judge()
        return self.outcome

    # What can happen

    def kill_worker_of_window(self) -> None:
        """Right after its start, if one is seen within a while: its run may or may not be there."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            processes = self._deployment.worker_at(self.run_id, "task_id = 'load' and map_index > 0")
            if processes:
                time.sleep(self._random.uniform(0, 0.6))
                kill(processes)
                return
            time.sleep(0.02)

    # What there is to see

    @property
    def _stream(self) -> tuple[str, str]:
        return self._dag_id, self.run_id

    def _complain(self, what: str) -> None:
        self.outcome.complaints.append(what)

    def _open(self) -> bool:
        query = "select 1 from task_instance where run_id = %s and task_id = 'load' and map_index > 0 limit 1"
        return bool(self._cluster.ask(query, self.run_id))

    def _done(self) -> bool:
        query = "select state from dag_run where dag_id = %s and run_id = %s"
        return str(self._cluster.ask(query, self._dag_id, self.run_id)[0][0]) in ("success", "failed")

    def _carried(self) -> dict[int, list[tuple[str, int]]]:
        """In which runs, under which map indexes, an item was."""
        found: dict[int, list[tuple[str, int]]] = {}
        query = "select number, run_id, map_index from written where run_id like %s"
        with psycopg.connect(self._deployment.book) as connection:
            for number, run_id, index in connection.execute(query, (f"{self._dag_id}.{self.run_id}.%",)):
                found.setdefault(number, []).append((run_id, index))
        return found

    def _judge(self) -> None:
        carried = self._carried()
        query = "select state, count(*) from dag_run where dag_id = %s and run_id like %s group by state"
        children = dict(self._cluster.ask(query, CHILD, f"{self._dag_id}.{self.run_id}.%"))
        windows = Counter(self._window(places) for places in carried.values())
        self.outcome.ran_again = sum(len(places) - 1 for places in carried.values())
        state = self._cluster.run_state(self._dag_id, self.run_id)
        wrong = {
            "the run": state != "success" and state,
            "lost": sorted(set(range(ITEMS)) - set(carried)),
            "repeated": [number for number, places in carried.items() if len(set(places)) > 1],
            "runs": children != {"success": -(-ITEMS // WINDOW)} and children,
            "misplaced": [n for n, places in carried.items() if self._window(places) != n // WINDOW + 1],
            "windows": [number for number, items in windows.items() if items > WINDOW],
        }
        self.outcome.complaints += [f"{what}: {which}" for what, which in wrong.items() if which]

    def _window(self, places: list[tuple[str, int]]) -> int:
        return int(places[0][0].rpartition(".")[2])


WINDOW_FAULTS: dict[str, Callable[[WindowsRun], None]] = {
    "kill triggerers": WindowsRun.kill_triggerers,
    "kill triggerers in a pause": WindowsRun.kill_triggerers_in_a_pause,
    "kill scheduler": WindowsRun.kill_scheduler,
    "kill api-server": WindowsRun.kill_api_server,
    "cut database": WindowsRun.cut_database,
    "kill worker of a window": WindowsRun.kill_worker_of_window,
}
