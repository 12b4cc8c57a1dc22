"""A task group that grows, and what became of its instances when processes died meanwhile."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg

from deferred_expand.testing.local_airflow import wait_until
from tests.chaos.deployment import kill
from tests.chaos.whole import Struck

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.deployment import Deployment

ITEMS = 60
DAG_ID = "chaotic_groups"
TASKS = ("group.one", "group.two", "group.three")


@dataclass
class GroupsOutcome:
    """:attr:`complaints` is empty where the promise was kept."""

    faults: list[str] = field(default_factory=list)
    ran_again: int = 0
    """Instances that were tried again, as their workers were killed."""
    complaints: list[str] = field(default_factory=list)


class GroupsRun(Struck):
    """:param seed: of the moments."""

    def __init__(self, deployment: Deployment, seed: int) -> None:
        super().__init__(deployment)
        self._random = random.Random(seed)
        self.outcome = GroupsOutcome()
        self._cluster.wait_for_dag(DAG_ID)
        self.run_id = self._cluster.trigger(DAG_ID, {"book": deployment.book, "items": ITEMS})

    def go(self, faults: Sequence[str]) -> GroupsOutcome:
        """One after the other, and each while the group grows."""
        for number, fault in enumerate(faults, 1):
            wanted = (number - 1) * ITEMS // (len(faults) + 1)
            wait_until("the group grows", lambda: self._done() or self._made() > wanted, 240)  # noqa: B023
            time.sleep(self._random.uniform(0, 2))
            if self._done():
                self.outcome.complaints.append(f"it had ended before {fault}")
                break
            GROUP_FAULTS[fault](self)
            self._deployment.restart_scheduler_if_given_up()
            self.outcome.faults.append(fault)
        wait_until("the run has ended", self._done, 500)
        self._judge()
        return self.outcome

    # What can happen

    def kill_worker_of_item(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            processes = self._deployment.worker_at(self.run_id, "task_id like 'group.%%'")
            if processes:
                kill(processes)
                return
            time.sleep(0.02)

    def clear_head(self) -> None:
        """While it waits, and whatever that is in the middle of."""
        self._cluster.clear(DAG_ID, self.run_id, ["rows.stream"])

    # What there is to see

    @property
    def _stream(self) -> tuple[str, str]:
        return DAG_ID, self.run_id

    def _complain(self, what: str) -> None:
        self.outcome.complaints.append(what)

    def _made(self) -> int:
        query = "select count(*) from task_instance where run_id = %s and task_id = %s and map_index >= 0"
        return int(self._cluster.ask(query, self.run_id, TASKS[-1])[0][0])

    def _done(self) -> bool:
        query = "select state from dag_run where dag_id = %s and run_id = %s"
        return str(self._cluster.ask(query, DAG_ID, self.run_id)[0][0]) in ("success", "failed")

    def _judge(self) -> None:
        query = "select task_id, state, count(*) from task_instance where run_id = %s group by 1, 2"
        states = {(task, state): count for task, state, count in self._cluster.ask(query, self.run_id)}
        wanted = dict.fromkeys(((task, "success") for task in TASKS), ITEMS)
        wanted |= dict.fromkeys(((task, "success") for task in ("rows", "rows.stream", "after")), 1)
        written, book = (
            Counter[tuple[str, int, int]](),
            "select task_id, number, map_index, extract(epoch from at)",
        )
        times: dict[tuple[str, int], list[float]] = {}
        with psycopg.connect(self._deployment.book) as connection:
            for task, number, index, at in connection.execute(
                f"{book} from written where run_id = %s", (self.run_id,)
            ):
                written[task, number, index] += 1
                times.setdefault((task, index), []).append(float(at))
        self.outcome.ran_again = sum(count - 1 for count in written.values())
        early = [
            (after, index)
            for before, after in pairwise(TASKS)
            for index in range(ITEMS)
            if min(times.get((after, index), [0])) < min(times.get((before, index), [0]))
        ]
        wrong = {
            "states": states != wanted and states,
            "lost": [(task, n) for task in TASKS for n in range(ITEMS) if (task, n, n) not in written],
            "misplaced": [place for place in written if place[1] != place[2]],
            "before what they wait for": early,
        }
        self.outcome.complaints += [f"{what}: {which}" for what, which in wrong.items() if which]


GROUP_FAULTS: dict[str, Callable[[GroupsRun], None]] = {
    "kill triggerers": GroupsRun.kill_triggerers,
    "kill triggerers in a pause": GroupsRun.kill_triggerers_in_a_pause,
    "kill scheduler": GroupsRun.kill_scheduler,
    "kill api-server": GroupsRun.kill_api_server,
    "cut database": GroupsRun.cut_database,
    "kill worker of an item": GroupsRun.kill_worker_of_item,
    "clear the head": GroupsRun.clear_head,
}
