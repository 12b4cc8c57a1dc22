"""One stream with several faults, and what became of its items."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.gates import Gates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.chaos.deployment import Deployment
    from tests.chaos.faults import Fault

ITEMS = 60
PAGE = 3
#: Seconds until an item given after a fault must have started.
PATIENCE = 150.0


@dataclass
class Outcome:
    """What is left when the run has ended; :attr:`complaints` is empty where the promise was kept."""

    faults: dict[str, float | None]
    """The seconds from each fault to the start of an item given after it; None: there was nothing to hit."""
    state: str = ""
    lost: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    ran_again: int = 0
    complaints: list[str] = field(default_factory=list)


class ChaoticRun:
    """
    A stream of :data:`ITEMS` items.

    :param committer: ``"triggerer"`` or ``"callback"``.
    :param seed: of the moments.
    """

    def __init__(self, deployment: Deployment, committer: str, folder: Path, seed: int) -> None:
        self._deployment = deployment
        self._random = random.Random(seed)
        self._gates = Gates(folder)
        self._given = 0
        self._dag_id = f"chaotic_{committer}"
        deployment.cluster.wait_for_dag(self._dag_id)
        self.run_id = deployment.cluster.trigger(
            self._dag_id, {"gates": str(folder), "book": deployment.book}
        )

    def go(self, faults: Sequence[Fault]) -> Outcome:
        """Give the items, some before and the others after each fault."""
        outcome = Outcome({})
        pages = ITEMS // PAGE // len(faults)
        for fault in faults:
            outcome.faults[str(fault)] = self._suffer(fault, pages)
        while self._given < ITEMS:
            self._give(1)
        self._gates.end()
        outcome.state = wait_until("the run has ended", self._ended, timeout=300)
        self._judge(outcome)
        return outcome

    def _suffer(self, fault: Fault, pages: int) -> float | None:
        before = self._random.randrange(1, pages)
        self._give(before)
        if not fault.process.startswith("worker"):  # they are waited for
            time.sleep(self._random.uniform(0, 3))
        marked = self._given
        began = time.monotonic()
        with ThreadPoolExecutor(1) as thread:
            happening = thread.submit(fault.happen, self._deployment, self.run_id)
            self._give(pages - before)
            wait_until(f"items given after {fault} start", lambda: self._started_after(marked), PATIENCE)
            took = time.monotonic() - began
            was_hit = happening.result()
        wait_until(f"all items given so far start after {fault}", self._all_started, PATIENCE)
        return took if was_hit else None

    def _give(self, pages: int) -> None:
        for _ in range(pages):
            self._gates.open(PAGE)
            self._given += PAGE

    def _started_after(self, number: int) -> bool:
        return any(row[0] >= number for row in self._deployment.written(self.run_id))

    def _all_started(self) -> bool:
        return {row[0] for row in self._deployment.written(self.run_id)} >= set(range(self._given))

    def _ended(self) -> str | None:
        query = "select state from dag_run where dag_id = %s and run_id = %s"
        state = str(self._deployment.cluster.ask(query, self._dag_id, self.run_id)[0][0])
        return state if state in ("success", "failed") else None

    def _judge(self, outcome: Outcome) -> None:
        written = self._deployment.written(self.run_id)
        carried: dict[int, set[int]] = {number: set() for number in range(ITEMS)}
        for number, map_index, _ in written:
            carried.setdefault(number, set()).add(map_index)
        outcome.lost = [number for number, indexes in carried.items() if not indexes]
        outcome.repeated = [number for number, indexes in carried.items() if len(indexes) > 1]
        outcome.ran_again = sum(times - 1 for times in Counter(row[0] for row in written).values())
        query = "select map_index, state from task_instance where run_id = %s and task_id = 'item'"
        instances = dict(self._deployment.cluster.ask(query, self.run_id))
        wrong = {
            "the run": outcome.state != "success" and outcome.state,
            "lost": outcome.lost,
            "repeated": outcome.repeated,
            "out of order": [n for n, indexes in carried.items() if indexes - {n + 1}],
            "instances missing or too many": set(instances) ^ set(range(ITEMS + 1)),
            "not successful": {i: state for i, state in instances.items() if state != "success"},
        }
        outcome.complaints = [f"{what}: {which}" for what, which in wrong.items() if which]
