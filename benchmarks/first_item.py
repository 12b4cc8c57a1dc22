"""20 pages of 5 items, 1.5 s a page, 0.2 s an item: when do items start, when are all done?"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.deployment import deployment

CONF = {"pages": 20, "per_page": 5, "page_seconds": 1.5, "item_seconds": 0.2}
ITEM_ALONE = 2.0  # seconds, about: a worker's start and the item itself
FLOOR = {"first_item": 1.5 + ITEM_ALONE, "all_done": 20 * 1.5 + ITEM_ALONE}
SLOW_REQUEUE = 10.0  # seconds, beside the 3 s of the others

Measured = dict[str, Any]


def run(rounds: int) -> Measured:
    """Interleaved rounds; the first is cold and reported apart."""
    variants: dict[str, list[Measured]] = {"native": [], "expander": [], "callback, 3 s": []}
    with deployment() as airflow:
        for _ in range(1 + rounds):
            for name, measured in variants.items():
                measured.append(airflow.measure(name.split(",")[0], CONF))
    variants["callback, 10 s"] = []
    with deployment(requeue_delay=SLOW_REQUEUE) as airflow:
        for _ in range(1 + rounds):
            variants["callback, 10 s"].append(airflow.measure("callback", CONF))
    return {"floor": FLOOR, "variants": {name: _summary(all_) for name, all_ in variants.items()}}


def _summary(measured: list[Measured]) -> Measured:
    cold, *warm = measured
    return {
        "cold": cold,
        "warm": {
            **{key: median(one[key] for one in warm) for key in ("first_item", "all_done", "launches")},
            "to_instances": [latency for one in warm for latency in one["to_instances"]],
            "peak_mb": {
                kind: max(one["peak_mb"].get(kind, 0) for one in measured) for kind in cold["peak_mb"]
            },
        },
        "rounds": warm,
    }
