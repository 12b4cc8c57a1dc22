"""Many items in one task instance, with several faults, and how often each of them ended."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg

from deferred_expand.testing.local_airflow import wait_until
from tests.chaos.deployment import kill, stop_for
from tests.chaos.operators import ITEMS_BOOK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psutil

    from tests.chaos.deployment import Deployment

ITEMS, CONCURRENCY, CHECKPOINT = 400, 6, 1.0
#: Seconds for a write that was under way at the fault: an item's own, and that of how it ended.
WRITE = 0.7
#: Seconds until an item must have ended that began after a fault.
PATIENCE = 150.0


@dataclass(frozen=True)
class Ended:
    """:param at: seconds since the epoch."""

    number: int
    at: float
    try_number: int


@dataclass
class ItemsOutcome:
    """What is left when the run has ended; :attr:`complaints` is empty where the promise was kept."""

    faults: dict[str, float] = field(default_factory=dict)
    """The seconds from each fault until an item ended that had begun after it."""
    ran_again: int = 0
    """Items that ended twice: in flight at a fault, or ended within the last checkpoint before it."""
    complaints: list[str] = field(default_factory=list)


class ItemsRun:
    """
    One task instance of many items.

    :param kind: ``"sync"``, ``"async"`` or ``"deferrable"``; ``"waiting"``: deferrable, with waits so
        long that the instance is deferred.
    :param seed: of the moments.
    """

    def __init__(self, deployment: Deployment, kind: str, seed: int) -> None:
        self._deployment, self._cluster = deployment, deployment.cluster
        self._random = random.Random(seed)
        self._waits = kind == "waiting"
        self._items = 60 if self._waits else ITEMS
        self._dag_id = f"chaotic_items_{'deferrable' if self._waits else kind}"
        self._hits: list[float] = []
        self.outcome = ItemsOutcome()
        with psycopg.connect(deployment.book) as connection:
            connection.execute(ITEMS_BOOK)
        self._cluster.wait_for_dag(self._dag_id)
        seconds = 16.0 if self._waits else 0.5
        conf = {"book": deployment.book, "items": self._items, "seconds": seconds}
        self.run_id = self._cluster.trigger(self._dag_id, conf)

    def go(self, faults: Sequence[str]) -> ItemsOutcome:
        wait_until("an item has ended", self._ends, PATIENCE)
        for fault in faults:
            time.sleep(self._random.uniform(0, 3))
            if self._waits:
                wait_until("the instance is deferred", lambda: self._state() == "deferred", PATIENCE)
            hit_at = time.time()
            self._hits.append(hit_at)
            FAULTS[fault](self)
            self.outcome.faults[fault] = self._goes_on(fault, hit_at)
        state = wait_until("the run has ended", self._ended, timeout=300)
        self._judge(state)
        return self.outcome

    def _goes_on(self, fault: str, hit_at: float) -> float:
        back_at = time.time()
        wait_until(f"items end after {fault}", lambda: self._begun_after(back_at), PATIENCE)
        self._deployment.restart_scheduler_if_given_up()
        return time.time() - hit_at

    # What can happen

    def kill_worker(self) -> None:
        kill(self._worker())

    def stop_worker(self) -> None:
        stop_for(6, self._worker())

    def lose_worker(self) -> None:
        """It stands still for longer than Airflow waits for its heartbeat; then it goes on."""
        stop_for(18, self._worker())

    def kill_api_server(self) -> None:
        self._cluster.kill("api-server")
        self._cluster.start_component("api-server")
        self._cluster.wait_for_answers()

    def cut_api_server(self) -> None:
        """For so long that Airflow ends the process, as its heartbeats fail."""
        self._cluster.kill("api-server")
        time.sleep(15)
        self._cluster.start_component("api-server")
        self._cluster.wait_for_answers()

    def stop_api_server(self) -> None:
        stop_for(6, self._deployment.family("api-server"))

    def cut_database(self) -> None:
        self._deployment.cut_database()

    def kill_scheduler(self) -> None:
        """LocalExecutor's workers end with it."""
        self._cluster.kill("scheduler")
        self._cluster.start_component("scheduler")

    def kill_triggerers(self) -> None:
        for name in ("triggerer", "triggerer 2"):
            self._cluster.kill(name)
            self._cluster.start_component(name)

    def mark_failed(self) -> None:
        """And clear it, which lets the rest run."""
        path = f"/dags/{self._dag_id}/dagRuns/{self.run_id}/taskInstances/items/0"
        self._cluster.api("PATCH", path, json={"new_state": "failed"})
        wait_until("the run has failed", lambda: self._ended() == "failed", 60)
        self.clear()

    def clear(self) -> None:
        self._cluster.clear(self._dag_id, self.run_id, ["items"], include_downstream=True)

    # What there is to see

    def _worker(self) -> list[psutil.Process]:
        return wait_until(
            "its worker is seen", lambda: self._deployment.worker_at(self.run_id, "task_id = 'items'"), 60
        )

    def _state(self) -> str | None:
        query = "select state from task_instance where run_id = %s and task_id = 'items' and map_index = 0"
        rows = self._cluster.ask(query, self.run_id)
        return rows[0][0] if rows else None

    def _ends(self) -> list[Ended]:
        query = "select number, extract(epoch from at), try from items where run_id = %s and what = 'end'"
        with psycopg.connect(self._deployment.book) as connection:
            rows = connection.execute(f"{query} order by at", (self.run_id,)).fetchall()
        return [Ended(number, float(at), try_number) for number, at, try_number in rows]

    def _begun_after(self, moment: float) -> bool:
        """Whether an item did that has ended by now, or nothing is left to do."""
        query = """
            select 1 from items b join items e using (run_id, number, try) where b.run_id = %s
            and b.what = 'begin' and e.what = 'end' and extract(epoch from b.at) > %s limit 1
        """
        with psycopg.connect(self._deployment.book) as connection:
            found = connection.execute(query, (self.run_id, moment)).fetchone()
        return bool(found) or self._ended() is not None

    def _ended(self) -> str | None:
        query = "select state from dag_run where dag_id = %s and run_id = %s"
        state = str(self._cluster.ask(query, self._dag_id, self.run_id)[0][0])
        return state if state in ("success", "failed") else None

    def _judge(self, state: str) -> None:
        ends: dict[int, list[Ended]] = {}
        for end in self._ends():
            ends.setdefault(end.number, []).append(end)
        written_down = [
            (first.number, round(self._fault_before(second.at) - first.at, 1))
            for of_item in ends.values()
            for first, second in pairwise(of_item)
            if first.at < self._fault_before(second.at) - CHECKPOINT - WRITE
        ]
        self.outcome.ran_again = sum(len(of_item) - 1 for of_item in ends.values())
        results = self._cluster.xcom(self._dag_id, self.run_id, "collect") if state == "success" else None
        wrong = {
            "the run": state != "success" and state,
            "lost": sorted(set(range(self._items)) - set(ends)),
            "ran again, though its end was written down (item, seconds before the fault)": written_down,
            "twice in one try": [
                number for number, of_item in ends.items()
                if len({end.try_number for end in of_item}) < len(of_item)
            ],
            "results": results != [10 * number for number in range(self._items)],
        }  # fmt: skip
        self.outcome.complaints += [f"{what}: {which}" for what, which in wrong.items() if which]

    def _fault_before(self, moment: float) -> float:
        return max(hit_at for hit_at in self._hits if hit_at < moment)


#: Those of an instance whose items are at work, and of one that waits.
FAULTS: dict[str, Callable[[ItemsRun], None]] = {
    "kill worker": ItemsRun.kill_worker,
    "stop worker": ItemsRun.stop_worker,
    "lose worker": ItemsRun.lose_worker,
    "kill api-server": ItemsRun.kill_api_server,
    "cut api-server": ItemsRun.cut_api_server,
    "stop api-server": ItemsRun.stop_api_server,
    "cut database": ItemsRun.cut_database,
    "kill scheduler": ItemsRun.kill_scheduler,
    "mark failed": ItemsRun.mark_failed,
    "clear": ItemsRun.clear,
    "kill triggerers": ItemsRun.kill_triggerers,
}
#: What can happen while no worker has the instance.
WHILE_IT_WAITS = (
    "kill triggerers",
    "cut database",
    "kill api-server",
    "kill scheduler",
    "mark failed",
    "clear",
)
