"""What can happen to the components of a deployment, whatever runs in it."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from deferred_expand.testing.local_airflow import wait_until

if TYPE_CHECKING:
    from tests.chaos.deployment import Deployment

#: Seconds without a commit after which a pause has arrived: triggers look for it every 10 s at least, and a
#: worker may still be about to commit what was handed over before.
STILL = 15.0
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
        before = self._items_when_still()
        self.kill_triggerers()
        wait_until("its trigger has a triggerer that lives", self._is_with_a_new_triggerer, 120)
        time.sleep(PAUSE)
        after = self._items()
        if after != before:
            self._complain(f"{before} items before a pause, {after} after it")
        self._cluster.run("streams", "resume", *self._stream, *token)

    def _items(self) -> str:
        """That are committed."""
        (shown,) = json.loads(self._cluster.run("streams", "show", *self._stream, "--output", "json"))
        return str(shown["items"])

    def _items_when_still(self) -> str:
        items, since = "", time.monotonic()

        def stands_still() -> bool:
            nonlocal items, since
            if (now := self._items()) != items:
                items, since = now, time.monotonic()
            return time.monotonic() - since > STILL

        wait_until("nothing more is committed", stands_still, 120, every=2)
        return items

    def _is_with_a_new_triggerer(self) -> bool:
        query = """
            select 1 from trigger join task_instance on trigger_id = trigger.id
            join job on job.id = triggerer_id
            where task_instance.run_id = %s and map_index <= 0 and job.state = 'running'
            and extract(epoch from job.start_date) > %s
        """
        started = min(self._deployment.started_at(name) for name in ("triggerer", "triggerer 2"))
        return bool(self._cluster.ask(query, self.run_id, started))
