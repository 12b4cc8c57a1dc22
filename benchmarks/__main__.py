"""Run the benchmarks: ``python -m benchmarks [part ...]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console

from benchmarks import (
    first_item,
    item_streams,
    large_pages,
    many_instances,
    many_items,
    open_streams,
    pages,
    resumed_items,
    sizes,
    walk_only,
    windows,
)
from benchmarks.report import draw, print_tables

if TYPE_CHECKING:
    from collections.abc import Callable


def walk(rounds: int) -> dict[str, Any]:
    return {
        "cost": walk_only.cost_per_item(rounds),
        "memory": walk_only.memory_of_a_million(),
        "lag_ms": walk_only.lag_of_many_streams(),
    }


PARTS: dict[str, Callable[[int], Any]] = {
    "walk": walk,
    "first_item": first_item.run,
    "many_instances": many_instances.run,
    "large_pages": lambda rounds: large_pages.run(),
    "triggerer": lambda rounds: open_streams.run(10),
    "busy triggerer": lambda rounds: open_streams.run(1),
    "many items": lambda rounds: many_items.run(),
    "resumed items": lambda rounds: resumed_items.run(),
    "item streams": item_streams.run,
    "windows": lambda rounds: windows.run(),
    "sizes": lambda rounds: sizes.run(),
    "pages": lambda rounds: pages.run(),
}


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.platform(),
        "python": platform.python_version(),
        "airflow": version("apache-airflow"),
        "database": "SQLite",
        "executor": "LocalExecutor",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--rounds", type=int, default=3, help="warm rounds, beside a cold one")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    console = Console(width=130)
    options.results.mkdir(parents=True, exist_ok=True)
    written = options.results / "results.json"
    results = json.loads(written.read_text()) if written.exists() and options.parts else {}
    results["machine"] = machine()
    console.print(results["machine"])
    for name, part in PARTS.items():
        if not options.parts or name in options.parts:
            console.print(f"measuring: {name}", style="dim")
            results[name] = part(options.rounds)
            written.write_text(json.dumps(results, indent=1))
            print_tables(console, {name: results[name]})
    if "first_item" in results:
        draw(results, options.results / "first_item.png")
    console.print(f"written to {options.results}")


if __name__ == "__main__":
    main()
