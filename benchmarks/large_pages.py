"""Pages of 1 MB: what does each process need, and does it grow with the number of pages?"""

from __future__ import annotations

from typing import Any

from benchmarks.deployment import deployment

PAGES = {"native": (20, 60), "expander": (20, 60, 200), "callback": (20, 60)}


def run() -> dict[str, dict[int, dict[str, float]]]:
    """Peak MB of every kind of process, a fresh deployment for each; natively not for 200 pages."""
    return {name: {pages: _peaks(name, pages) for pages in counts} for name, counts in PAGES.items()}


def _peaks(name: str, pages: int) -> dict[str, float]:
    conf: dict[str, Any] = {
        "pages": pages, "per_page": 1, "page_seconds": 0.1, "item_seconds": 0, "item_bytes": 1_000_000,
    }  # fmt: skip
    with deployment() as airflow:
        peaks: dict[str, float] = airflow.measure(name, conf)["peak_mb"]
    return peaks
