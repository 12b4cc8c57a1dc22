"""What can happen to each process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tests.chaos.deployment import kill, stop_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.chaos.deployment import Deployment

#: Seconds that a process stands still: longer than the time after which another one takes over, but
#: for those whose tasks are given up meanwhile (see "The promise" in the README).
STOPPED = {
    "triggerer": 12.0,
    "scheduler": 12.0,
    "api-server": 6.0,
    "worker of the head": 6.0,
    "worker of an item": 6.0,
}
#: Seconds from the moment that a worker is seen at work until it is hit, at most. The head's start
#: with the expander comes only once; callbacks and items come again when they were missed.
START_MOMENTS, WORKER_MOMENTS = 0.1, 1.5
#: Seconds to find a worker at work.
PATIENCE = 60.0
#: After these a native instance may run again, too: LocalExecutor's workers end with their
#: scheduler, and a worker that cannot reach the API ends its task.
ITEMS_MAY_RUN_AGAIN = frozenset(
    {"kill worker of an item", "kill scheduler", "stop scheduler", "kill api-server", "stop api-server"}
)


@dataclass(frozen=True)
class Fault:
    """Something that happens to one process: ``"kill"``, ``"stop"`` or, to the database, ``"cut"``."""

    process: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.process}"

    @property
    def is_to_worker(self) -> bool:
        return self.process.startswith("worker")

    def happen(
        self,
        deployment: Deployment,
        run_id: str,
        moments: Random,
        *,
        in_callback: bool,
        hit: Callable[[], None],
    ) -> None:
        """
        Until the process is back.

        :param moments: chooses when, once a worker is at work.
        :param in_callback: the head's worker is to be hit while it commits, not when it starts.
        :param hit: called just before it happens; never, where there was nothing to be hit.
        """
        if self.process == "database":
            hit()
            deployment.cut_database()
        elif self.is_to_worker:
            self._to_worker(deployment, run_id, moments, in_callback, hit)
        else:
            name = deployment.triggerer_of(run_id) if self.process == "triggerer" else self.process
            hit()
            if self.how == "kill":
                deployment.cluster.kill(name)
                deployment.cluster.start_component(name)
            else:
                stop_for(STOPPED[self.process], deployment.family(name))
            if str(self) == "stop scheduler":
                deployment.restart_scheduler_if_given_up()

    def _to_worker(
        self,
        deployment: Deployment,
        run_id: str,
        moments: Random,
        in_callback: bool,
        hit: Callable[[], None],
    ) -> None:
        comes_once = self.process == "worker of the head" and not in_callback
        latest = START_MOMENTS if comes_once else WORKER_MOMENTS
        gives_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < gives_up_at:
            processes = deployment.worker_of(
                run_id, head=self.process == "worker of the head", resumed=in_callback
            )
            if not processes:
                time.sleep(0.02)
                continue
            time.sleep(moments.uniform(0, latest))
            if not all(map(_is_alive, processes)):
                latest /= 2  # it was shorter than that
                continue
            hit()
            if self.how == "kill":
                kill(processes)
            else:
                stop_for(STOPPED[self.process], processes)
            return


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


FAULTS = (
    *(Fault(process, how) for process in STOPPED for how in ("kill", "stop")),
    Fault("database", "cut"),
)
