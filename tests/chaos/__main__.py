"""
Every (process, signal) pair with both committers and three seeds, in a table: ``make chaos``.

``CHAOS_SEED=n`` runs one seed only.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.chaos.deployment import TIME_OUTS, deployment
from tests.chaos.faults import FAULTS
from tests.chaos.run import ITEMS, ChaoticRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.faults import Fault
    from tests.chaos.run import Outcome

SEEDS = (1, 2, 3)
RUNS_OF_A_SEED = 3


def plan(seed: int, committer: str) -> Iterator[list[Fault]]:
    """All faults, shared out over a few runs in an order of the seed's."""
    shuffled = list(FAULTS)
    random.Random(f"{seed} {committer}").shuffle(shuffled)
    for first in range(RUNS_OF_A_SEED):
        faults = shuffled[first::RUNS_OF_A_SEED]
        if committer == "triggerer":  # the head is at a worker for its start only
            faults.sort(key=lambda fault: fault.process != "worker of the head")
        yield faults


def main() -> int:
    console = Console(width=150)
    seeds = [int(os.environ["CHAOS_SEED"])] if "CHAOS_SEED" in os.environ else SEEDS
    console.print(f"{ITEMS} items a run, seconds: {TIME_OUTS}")
    table = Table("committer", "seed", "faults: seconds to go on", "lost", "repeated", "ran again", "promise")
    broken, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, deployment(Path(folder)) as running:
        for seed in seeds:
            for committer in ("triggerer", "callback"):
                for number, faults in enumerate(plan(seed, committer)):
                    gates = Path(folder) / f"{seed}-{committer}-{number}"
                    gates.mkdir()
                    run = ChaoticRun(running, committer, gates, seed * 10 + number)
                    try:
                        run.go(faults)
                    except TimeoutError as error:
                        run.outcome.complaints.append(str(error))
                    broken += bool(run.outcome.complaints)
                    row = _row(committer, seed, run.outcome)
                    console.print(" | ".join(row))
                    table.add_row(*row)
        if broken:
            running.cluster.keep_home = True
            console.print(f"kept for a look: {running.cluster.home}")
    console.print(table)
    console.print(f"{broken} runs broke the promise; {(time.monotonic() - began) / 60:.0f} minutes")
    return min(broken, 1)


def _row(committer: str, seed: int, outcome: Outcome) -> tuple[str, ...]:
    faults = ", ".join(
        f"{name}: {'not hit' if took is None else f'{took:.0f}'}" for name, took in outcome.faults.items()
    )
    ran_again = ", ".join(f"{count} after {fault}" for fault, count in outcome.ran_again.items())
    counts = (len(outcome.lost), len(outcome.repeated), ran_again or 0)
    return committer, str(seed), faults, *map(str, counts), "; ".join(outcome.complaints) or "kept"


if __name__ == "__main__":
    sys.exit(main())
