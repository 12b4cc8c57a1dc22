"""What can happen to the components of a deployment, whatever runs in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.deployment import Deployment


class Struck:
    """A run whose deployment is struck."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment, self._cluster = deployment, deployment.cluster

    def kill_triggerers(self) -> None:
        for name in ("triggerer", "triggerer 2"):
            self._cluster.kill(name)
            self._cluster.start_component(name)

    def kill_scheduler(self) -> None:
        self._cluster.kill("scheduler")
        self._cluster.start_component("scheduler")

    def kill_api_server(self) -> None:
        self._cluster.kill("api-server")
        self._cluster.start_component("api-server")
        self._cluster.wait_for_answers()

    def cut_database(self) -> None:
        self._deployment.cut_database()
