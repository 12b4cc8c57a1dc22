"""
Every (process, signal) pair with both committers and three seeds, in a table, and all that can happen
to a task instance of many items, to windows and their runs, and to groups that grow: ``make chaos``.

``CHAOS_SEED=n`` runs one seed only, ``CHAOS_OF="items windows"`` some of ``streams items windows groups``.
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

from tests.chaos import groups, items, windows
from tests.chaos.deployment import TIME_OUTS, deployment
from tests.chaos.faults import FAULTS
from tests.chaos.run import ITEMS, ChaoticRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.chaos.deployment import Deployment
    from tests.chaos.faults import Fault

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


def plan_of_items(seed: int) -> Iterator[tuple[str, list[str]]]:
    """With all seeds, all faults for items of each kind."""
    shuffled = [name for name in items.FAULTS if name != "kill triggerers"]
    random.Random("items").shuffle(shuffled)
    kinds = ("sync", "async", "deferrable")
    for number, kind in enumerate(kinds):
        yield kind, shuffled[(seed + number) % len(kinds) :: len(kinds)]
    yield "waiting", list(items.WHILE_IT_WAITS[seed % len(SEEDS) :: len(SEEDS)])


def main() -> int:
    console = Console(width=150)
    seeds = [int(os.environ["CHAOS_SEED"])] if "CHAOS_SEED" in os.environ else SEEDS
    only = os.environ.get("CHAOS_OF", "streams items windows groups").split()
    console.print(f"{ITEMS} items a stream, {items.ITEMS} an instance, seconds: {TIME_OUTS}")
    tables = [
        Table("committer", "seed", "faults: seconds to go on", "lost", "repeated", "ran again", "promise"),
        Table("items", "seed", "faults: seconds to go on", "ran again", "promise"),
        Table("windows", "seed", "faults", "ran again", "promise"),
        Table("groups", "seed", "faults", "ran again", "promise"),
    ]
    parts = (("streams", _streams), ("items", _items), ("windows", _windows), ("groups", _groups))
    broken, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, deployment(Path(folder)) as running:
        for seed in seeds:
            for table, (what, rows) in zip(tables, parts, strict=True):
                for complaints, row in rows(running, seed, Path(folder)) if what in only else ():
                    broken += bool(complaints)
                    console.print(" | ".join(row))
                    table.add_row(*row)
        if broken:
            running.cluster.keep_home = True
            console.print(f"kept for a look: {running.cluster.home}")
    for table in tables:
        console.print(table)
    console.print(f"{broken} runs broke the promise; {(time.monotonic() - began) / 60:.0f} minutes")
    return min(broken, 1)


Row = tuple[list[str], tuple[str, ...]]


def _streams(running: Deployment, seed: int, folder: Path) -> Iterator[Row]:
    for committer in ("triggerer", "callback"):
        for number, faults in enumerate(plan(seed, committer)):
            gates = folder / f"{seed}-{committer}-{number}"
            gates.mkdir()
            run = ChaoticRun(running, committer, gates, seed * 10 + number)
            try:
                run.go(faults)
            except TimeoutError as error:
                run.outcome.complaints.append(str(error))
            outcome = run.outcome
            ran_again = ", ".join(f"{count} after {fault}" for fault, count in outcome.ran_again.items())
            counts = (len(outcome.lost), len(outcome.repeated), ran_again or 0)
            complaints = outcome.complaints
            yield (
                complaints,
                (committer, str(seed), _seconds(outcome.faults), *map(str, counts), _kept(complaints)),
            )


def _items(running: Deployment, seed: int, folder: Path) -> Iterator[Row]:
    for kind, faults in plan_of_items(seed):
        run = items.ItemsRun(running, kind, seed)
        try:
            run.go(faults)
        except TimeoutError as error:
            run.outcome.complaints.append(str(error))
        complaints, ran_again = run.outcome.complaints, str(run.outcome.ran_again)
        yield complaints, (kind, str(seed), _seconds(run.outcome.faults), ran_again, _kept(complaints))


def _windows(running: Deployment, seed: int, folder: Path) -> Iterator[Row]:
    for committer in ("triggerer", "callback"):
        faults = list(windows.WINDOW_FAULTS)
        random.Random(f"{seed} {committer}").shuffle(faults)
        run = windows.WindowsRun(running, committer, seed)
        try:
            run.go(faults)
        except TimeoutError as error:
            run.outcome.complaints.append(str(error))
        told, ran_again = ", ".join(run.outcome.faults), str(run.outcome.ran_again)
        yield run.outcome.complaints, (committer, str(seed), told, ran_again, _kept(run.outcome.complaints))


def _groups(running: Deployment, seed: int, folder: Path) -> Iterator[Row]:
    faults = list(groups.GROUP_FAULTS)
    random.Random(f"{seed} groups").shuffle(faults)
    run = groups.GroupsRun(running, seed)
    try:
        run.go(faults)
    except TimeoutError as error:
        run.outcome.complaints.append(str(error))
    told, ran_again = ", ".join(run.outcome.faults), str(run.outcome.ran_again)
    yield run.outcome.complaints, ("groups", str(seed), told, ran_again, _kept(run.outcome.complaints))


def _seconds(faults: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"{name}: {'not hit' if took is None else f'{took:.0f}'}" for name, took in faults.items()
    )


def _kept(complaints: list[str]) -> str:
    return "; ".join(complaints) or "kept"


if __name__ == "__main__":
    sys.exit(main())
