"""A task instance that iterates over items, as people are told of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deferred_expand.iterating.ledger import FAILURES_KEY, LEDGER_KEY
from deferred_expand.iterating.limits import LIMITS_KEY

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.run_overview import InstanceFound

ITEM_KEYS = (LIMITS_KEY, LEDGER_KEY, FAILURES_KEY)
AT_WORK = ("running", "deferred", "queued", "scheduled", "restarting")
FAILURES_LISTED = 5


@dataclass(frozen=True)
class Iterating:
    """
    :param limits: as they are kept; a person may have written them.
    :param progress: how many items there are, and what became of them.
    :param failures: index and error of items, the first ones.
    """

    found: InstanceFound
    limits: dict[str, Any]
    progress: dict[str, int]
    failures: list[tuple[int, str]]

    @classmethod
    def of(cls, found: InstanceFound) -> Iterating:
        limits, ledger, failures = (_read(found.kept.get(key)) for key in ITEM_KEYS)
        counts = ledger if isinstance(ledger, dict) else {}
        progress = {
            name: counts[name] for name in ("total", "done", "skipped", "failed") if _is_count(counts, name)
        }
        shown = failures[:FAILURES_LISTED] if isinstance(failures, list) else []
        return cls(
            found,
            limits if isinstance(limits, dict) else {},
            progress,
            [(one[0], str(one[1])) for one in shown if isinstance(one, list) and len(one) == 2],
        )

    @property
    def is_running(self) -> bool:
        return self.found.state in AT_WORK

    @property
    def ended(self) -> int:
        return sum(self.progress.get(name, 0) for name in ("done", "skipped", "failed"))

    @property
    def label(self) -> str | None:
        return self.found.label


def _read(text: str | None) -> Any:
    """``None`` also for what a state store backend keeps elsewhere."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _is_count(counts: dict[str, Any], name: str) -> bool:
    return isinstance(counts.get(name), int)
