"""One Airflow on Postgres, with two triggerers, for these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deferred_expand.testing.statsd import StatsdListener
from tests.chaos.deployment import TIME_OUTS
from tests.e2e.cluster import postgres_cluster
from tests.e2e.repository import Repository
from tests.e2e.runs import BUNDLES, ROOT, bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.cluster import Cluster


@pytest.fixture(scope="package")
def statsd() -> StatsdListener:
    return StatsdListener()


@pytest.fixture(scope="package")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAG file that tests may change; its DAGs are those of ``gated.py`` under other names."""
    path = tmp_path_factory.mktemp("versioned") / "versioned.py"
    path.write_text((ROOT / "tests/e2e/dags/gated.py").read_text().replace('"gated_', '"versioned_gated_'))
    return path


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A DAG bundle with versions."""
    return Repository(tmp_path_factory.mktemp("git") / "repository")


@pytest.fixture(scope="package")
def cluster(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    statsd: StatsdListener,
    versioned: Path,
    repository: Repository,
) -> Iterator[Cluster]:
    """Two triggerers on Postgres."""
    bundles = [*BUNDLES, bundle("versioned", versioned.parent)]
    config = {**TIME_OUTS, **statsd.config, **repository.config(bundles)}
    folder, celery = tmp_path_factory.mktemp("servers"), request.config.getoption("--celery")
    with postgres_cluster(folder, config, celery=celery) as running:
        for name, counted in (("one_slot", False), ("one_slot_deferred_counted", True)):
            running.api("POST", "/pools", json={"name": name, "slots": 1, "include_deferred": counted})
        failed_before = request.session.testsfailed
        yield running
        if request.session.testsfailed > failed_before:
            running.keep_home = True
            print(f"{running.outputs()}\nkept for a look: {running.home}")
