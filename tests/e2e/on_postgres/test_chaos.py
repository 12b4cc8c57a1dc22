"""A short selection of ``make chaos``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.deployment import Deployment
from tests.chaos.faults import Fault
from tests.chaos.run import ChaoticRun

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

SELECTION = {
    "triggerer": [Fault("triggerer", "kill"), Fault("database", "cut")],
    "callback": [Fault("worker of the head", "kill"), Fault("scheduler", "kill")],
}


@pytest.fixture(scope="module")
def deployment(cluster: Cluster) -> Deployment:
    return Deployment(cluster)


@pytest.mark.long
@pytest.mark.parametrize("committer", ["triggerer", "callback"])
def test_nothing_is_lost_or_repeated(deployment: Deployment, tmp_path: Path, committer: str) -> None:
    outcome = ChaoticRun(deployment, committer, tmp_path, seed=7, items=18).go(SELECTION[committer])
    assert not outcome.complaints
