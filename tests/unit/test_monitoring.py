"""The dashboard and the alert rules name the metrics that are sent, and the dashboard all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from deferred_expand.plugin import telemetry
from deferred_expand.plugin.commit import Committed
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import Announcement, BatchEvent

FOLDER = Path(__file__).parents[2] / "docs/monitoring"
OURS = re.compile(r"airflow_deferred_expand_(\w+)")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Their names, as statsd_exporter makes them."""
    names: set[str] = set()

    def note(name: str, *_: Any, **__: Any) -> None:
        names.add(name.removeprefix("deferred_expand.").replace(".", "_"))

    monkeypatch.setattr(telemetry, "Stats", SimpleNamespace(incr=note, timing=note, gauge=note))
    head: Any = SimpleNamespace(dag_id="dag", task_id="echo", run_id="run")
    log = CommitLog("s")
    telemetry.report_commit(
        head, Committed(log, log, Announcement("b", "u", 0.0, BatchEvent.empty("s")), {}), 0.1
    )
    telemetry.report_growth(head, 3, 0.1)
    telemetry.report_pending(1)
    return names


def test_the_dashboard_shows_all_that_is_sent(sent: set[str]) -> None:
    board = json.loads((FOLDER / "grafana.json").read_text())
    shown = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in OURS.findall(target["expr"])
    }
    assert shown == sent


def test_the_rules_are_about_what_is_sent(sent: set[str]) -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    named = {name for rule in group["rules"] for name in OURS.findall(rule["expr"])}
    assert named
    assert named <= sent
