"""What can happen to each process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deferred_expand.testing.local_airflow import wait_until
from tests.chaos.deployment import kill, stop_for

if TYPE_CHECKING:
    import psutil

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


@dataclass(frozen=True)
class Fault:
    """Something that happens to one process: ``"kill"``, ``"stop"`` or, to the database, ``"cut"``."""

    process: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.process}"

    def happen(self, deployment: Deployment, run_id: str) -> bool:
        """Until the process is back; False where it was not there to be hit."""
        if self.process == "database":
            deployment.cut_database()
            return True
        if self.process.startswith("worker"):
            return self._to_worker(deployment, run_id)
        name = deployment.triggerer_of(run_id) if self.process == "triggerer" else self.process
        if self.how == "kill":
            deployment.cluster.kill(name)
            deployment.cluster.start_component(name)
        else:
            stop_for(STOPPED[self.process], deployment.family(name))
        return True

    def _to_worker(self, deployment: Deployment, run_id: str) -> bool:
        def at_work() -> list[psutil.Process]:
            return deployment.worker_of(run_id, head=self.process == "worker of the head")

        try:
            processes = wait_until(f"a {self.process} is at work", at_work, timeout=40, every=0.02)
        except TimeoutError:
            return False
        if self.how == "kill":
            kill(processes)
        else:
            stop_for(STOPPED[self.process], processes)
        return True


FAULTS = (
    *(Fault(process, how) for process in STOPPED for how in ("kill", "stop")),
    Fault("database", "cut"),
)
