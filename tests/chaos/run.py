"""One stream with several faults, and what became of its items."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deferred_expand.testing.local_airflow import wait_until
from tests.chaos.faults import ITEMS_MAY_RUN_AGAIN
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
    ran_again: dict[str, int] = field(default_factory=dict)
    """How many items, by the fault after which they did."""
    complaints: list[str] = field(default_factory=list)


class ChaoticRun:
    """
    A stream with several faults.

    :param committer: ``"triggerer"`` or ``"callback"``.
    :param seed: of the moments.
    :param items: at least.
    :ivar outcome: so far.
    """

    def __init__(
        self, deployment: Deployment, committer: str, folder: Path, seed: int, items: int = ITEMS
    ) -> None:
        self._items = items
        self._deployment = deployment
        self._random = random.Random(seed)
        self._gates = Gates(folder)
        self.outcome = Outcome({})
        self._given = 0
        self._gave_up = deployment.times_scheduler_gave_up()
        self._in_callback = committer == "callback"
        self._hit: tuple[float, int] | None = None  # when, and how many items were given by then
        self._dag_id = f"chaotic_{committer}"
        deployment.cluster.wait_for_dag(self._dag_id)
        self.run_id = deployment.cluster.trigger(
            self._dag_id, {"gates": str(folder), "book": deployment.book}
        )

    def go(self, faults: Sequence[Fault]) -> Outcome:
        """Give the items, some before and the others after each fault."""
        outcome = self.outcome
        pages = self._items // PAGE // len(faults)
        before: Fault | None = None
        for fault in faults:
            outcome.faults[str(fault)] = self._suffer(fault, pages)
            self._note_runs_again(outcome, fault, before)
            before = fault
        while self._given < self._items:
            self._give(1)
        self._gates.end()
        outcome.state = wait_until("the run has ended", self._ended, timeout=300)
        self._note_runs_again(outcome, faults[-1], faults[-2] if len(faults) > 1 else None)
        self._judge(outcome)
        return outcome

    def _suffer(self, fault: Fault, pages: int) -> float | None:
        waits_for_callbacks = self._in_callback and fault.process == "worker of the head"
        before = 1 if waits_for_callbacks else self._random.randrange(1, pages)
        self._give(before)
        if fault.process == "triggerer":
            self._deployment.triggerer_of(self.run_id)  # known, should there be no trigger when it happens
        if not fault.is_to_worker:  # they are waited for
            time.sleep(self._random.uniform(0, 3))
        self._hit = None
        with ThreadPoolExecutor(1) as thread:
            happening = thread.submit(
                fault.happen, self._deployment, self.run_id, self._random,
                in_callback=self._in_callback, hit=self._note_hit,
            )  # fmt: skip
            while waits_for_callbacks and not self._hit and not happening.done():
                self._give(1)  # a page, a callback
                wait_until("its items start", lambda: self._hit or self._all_started(), PATIENCE)
            self._give(max(0, pages - before))
            wait_until(f"{fault} happens", lambda: self._hit or happening.done(), PATIENCE)
            hit = self._hit
            if hit is not None and self._given == hit[1]:
                self._give(1)
            happening.result()
        wait_until(f"all items given so far start after {fault}", self._all_started, PATIENCE)
        return None if hit is None else self._first_start(*hit)

    def _note_hit(self) -> None:
        self._hit = time.time(), self._given

    def _give(self, pages: int) -> None:
        for _ in range(pages):
            self._gates.open(PAGE)
            self._given += PAGE

    def _first_start(self, hit_at: float, given_before: int) -> float:
        written = self._deployment.written(self.run_id)
        return min(row.at for row in written if row.number >= given_before) - hit_at

    def _all_started(self) -> bool:
        return {row.number for row in self._deployment.written(self.run_id)} >= set(range(self._given))

    def _ended(self) -> str | None:
        query = "select state from dag_run where dag_id = %s and run_id = %s"
        state = str(self._deployment.cluster.ask(query, self._dag_id, self.run_id)[0][0])
        return state if state in ("success", "failed") else None

    def _note_runs_again(self, outcome: Outcome, fault: Fault, before: Fault | None) -> None:
        """What ran again since this was asked last; a heartbeat time-out may outlast a fault."""
        counts = Counter(row.number for row in self._deployment.written(self.run_id))
        more = sum(counts.values()) - len(counts) - sum(outcome.ran_again.values())
        blamed = before if before and str(fault) not in ITEMS_MAY_RUN_AGAIN else fault
        if more:
            outcome.ran_again[str(blamed)] = outcome.ran_again.get(str(blamed), 0) + more
            ended_workers = str(blamed) == "cut database" and self._deployment.ended_by_cut
            gave_up = self._deployment.times_scheduler_gave_up() > self._gave_up
            if str(blamed) not in ITEMS_MAY_RUN_AGAIN and not ended_workers and not gave_up:
                outcome.complaints.append(f"{more} item(s) ran again after {blamed}")
        self._deployment.restart_scheduler_if_given_up()  # its workers may have kept it waiting
        self._gave_up = self._deployment.times_scheduler_gave_up()

    def _judge(self, outcome: Outcome) -> None:
        carried: dict[int, set[int]] = {}
        for row in self._deployment.written(self.run_id):
            carried.setdefault(row.number, set()).add(row.map_index)
        outcome.lost = [number for number in range(self._given) if number not in carried]
        outcome.repeated = [number for number, indexes in carried.items() if len(indexes) > 1]
        query = "select map_index, state from task_instance where run_id = %s and task_id = 'item'"
        instances = dict(self._deployment.cluster.ask(query, self.run_id))
        wrong = {
            "the run": outcome.state != "success" and outcome.state,
            "lost": outcome.lost,
            "repeated": outcome.repeated,
            "out of order": [n for n, indexes in carried.items() if indexes - {n + 1}],
            "instances missing or too many": set(instances) ^ set(range(self._given + 1)),
            "not successful": {i: state for i, state in instances.items() if state != "success"},
            "not hit": [fault for fault, took in outcome.faults.items() if took is None],
        }
        outcome.complaints += [f"{what}: {which}" for what, which in wrong.items() if which]
