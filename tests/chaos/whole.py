"""What can happen to the components of a deployment, whatever runs in it."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from deferred_expand.testing.local_airflow import wait_until

if TYPE_CHECKING:
    from tests.chaos.deployment import Deployment

PAUSE = 5.0  # seconds for which nothing may be committed, once triggerers are back


class Struck(ABC):
    """
    A run whose deployment is struck.

    :ivar run_id: of the DAG run.
    """

    run_id: str

    def __init__(self, deployment: Deployment) -> None:
        self._deployment, self._cluster = deployment, deployment.cluster

    @property
    @abstractmethod
    def _stream(self) -> tuple[str, str]:
        """DAG id and run id."""

    @abstractmethod
    def _complain(self, what: str) -> None:
        """The promise is broken."""

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

    def kill_triggerers_in_a_pause(self) -> None:
        """What a person has asked for outlasts them."""
        token = ("--api-token", self._cluster.api_token())
        self._cluster.run("streams", "pause", *self._stream, *token)
        before = wait_until("the stream is paused", self._items_if_paused, 120, every=2)
        self.kill_triggerers()
        wait_until("its trigger has a triggerer that lives", self._is_with_a_new_triggerer, 120)
        time.sleep(PAUSE)
        (shown,) = self._shown()
        if shown["items"] != before:
            self._complain(f"{before} items before a pause, {shown['items']} after it")
        self._cluster.run("streams", "resume", *self._stream, *token)

    def _shown(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(
            self._cluster.run("streams", "show", *self._stream, "--output", "json")
        )
        return found

    def _items_if_paused(self) -> str | None:
        (shown,) = self._shown()
        return shown["items"] if shown["waits_for"] == "a person to resume it" else None

    def _is_with_a_new_triggerer(self) -> bool:
        query = """
            select 1 from trigger join task_instance on trigger_id = trigger.id
            join job on job.id = triggerer_id
            where task_instance.run_id = %s and map_index <= 0 and job.state = 'running'
            and extract(epoch from job.start_date) > %s
        """
        started = min(self._deployment.started_at(name) for name in ("triggerer", "triggerer 2"))
        return bool(self._cluster.ask(query, self.run_id, started))
