"""A whole Airflow on this machine: api-server, scheduler, dag-processor and triggerer."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import psutil
from typing_extensions import Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

T = TypeVar("T")

COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
LOCKED_ATTEMPTS = 5
END_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(what: str, ask: Callable[[], T | None], timeout: float, every: float = 0.2) -> T:
    """
    Ask until the answer is true.

    :raises TimeoutError: naming what did not happen.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(every)


class LocalAirflow:
    """
    Starts and stops Airflow's components as processes of their own, on loopback and free ports.

    SQLite, LocalExecutor, a temporary home. Use it as a context manager.

    :param dags: the DAG folder.
    :param python_path: folders for the PYTHONPATH of all components.
    :param config: ``{"section.option": value}`` beside what is needed to run.
    :param path: below which everything is served, as behind a proxy.

    With :attr:`keep_home` set, database and logs stay when it ends. :attr:`components` has the
    commands of all that is started, :attr:`refused` the names of DAG files that cannot be imported, as
    their test wants it.
    """

    def __init__(
        self,
        dags: Path,
        *,
        python_path: Iterable[Path] = (),
        config: Mapping[str, str] | None = None,
        path: str = "",
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="deferred-expand-airflow-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{path}"
        self.components: dict[str, list[str]] = dict(COMPONENTS)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.keep_home = False
        self.refused: set[str] = set()
        settings = {
            "core.dags_folder": str(dags.resolve()),
            "core.load_examples": "False",
            "core.executor": "LocalExecutor",
            "core.dags_are_paused_at_creation": "False",
            "core.execution_api_server_url": f"{self.url}/execution/",
            "core.fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "core.simple_auth_manager_all_admins": "True",
            "database.sql_alchemy_conn": self._sqlite(30),
            "api.host": "127.0.0.1",
            "api.port": str(self.port),
            "api.base_url": self.url,
            "api.workers": "1",
            "api.secret_key": secrets.token_hex(),
            "api_auth.jwt_secret": secrets.token_hex(64),
            "dag_processor.refresh_interval": "5",
            "usage_data_collection.enabled": "False",
            **(config or {}),
        }
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in python_path),
            "NO_PROXY": "127.0.0.1,localhost",
            **_as_env(settings),
        }
        self._client: httpx.Client | None = None

    # -- processes --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if not self.keep_home:
            shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """:raises RuntimeError: a component ended at once, with the end of its output."""
        self.migrate()
        # A scheduler that is slow to start beside the others takes itself for dead, and from then on
        # all that it has queued for orphaned (airflow/jobs/scheduler_job_runner.py,
        # ``adopt_or_reset_orphaned_tasks``).
        schedulers = [name for name in self.components if name.startswith("scheduler")]
        for name in self.components:
            if name not in schedulers:
                self.start_component(name)
        wait_until("the api-server answers", self._is_healthy, timeout=120)
        for name in schedulers:
            self.start_component(name)

    def migrate(self) -> None:
        """Make the database; enough for ``dag.test()``, which needs no component."""
        self.run("db", "migrate")

    def start_component(self, name: str, config: Mapping[str, str] | None = None) -> None:
        """
        :param name: of a component; a second one of its kind is called ``"triggerer 2"``.
        :param config: its own settings, beside everyone's.
        """
        config = dict(config or {})
        if name == "api-server" and "sqlite" in self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]:
            # Its two ways to write can lock each other out, until one has waited long enough and
            # answers 500 (airflow/api_fastapi/logging/decorators.py, ``log_action``).
            config["database.sql_alchemy_conn"] = self._sqlite(3)
        with self.output(name).open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [*_airflow(), *self.components[name.split()[0]]],
                env={**self.env, **_as_env(config)},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _sqlite(self, timeout: int) -> str:
        """:param timeout: seconds to wait for another process to finish writing."""
        return f"sqlite:///{self.home}/airflow.db?timeout={timeout}"

    def run(self, *arguments: str) -> str:
        """Run an ``airflow`` command to its end and return what it printed."""
        done = subprocess.run(
            [*_airflow(), *arguments], env=self.env, cwd=self.home, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(arguments)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def stop(self) -> None:
        """End all components and whatever they started, by process id."""
        if self._client is not None:
            self._client.close()
            self._client = None
        for name in reversed(list(self.processes)):
            self.kill(name, signal.SIGTERM)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End one component with its children."""
        process = self.processes.pop(name)
        try:
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            if how == signal.SIGKILL or member.pid == process.pid:
                _signal(member, how)
        _, alive = psutil.wait_procs(family, timeout=15)
        for member in alive:
            _signal(member, signal.SIGKILL)
        process.wait()

    def output(self, name: str) -> Path:
        """What a component printed."""
        return self.home / f"{name}.out"

    def outputs(self, lines: int = 60) -> str:
        """The ends of what all components printed, for a failure's report."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(self.output(name).read_text(errors="replace").splitlines()[-lines:])
            for name in sorted({*self.components, *self.processes})
            if self.output(name).exists()
        )

    def _is_healthy(self) -> bool:
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.outputs()}")
        try:
            return httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    # -- Airflow's REST API -----------------------------------------------------------------------

    def api(self, method: str, path: str, **kwargs: Any) -> Any:
        """Call ``/api/v2``; :raises httpx.HTTPStatusError: with the answer's text."""
        if self._client is None:
            self._client = httpx.Client(
                base_url=f"{self.url}/api/v2",
                headers={"Authorization": f"Bearer {self.api_token()}"},
                timeout=60,
                # A connection kept open may be closed by the other end just when it is used again.
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        for _ in range(LOCKED_ATTEMPTS):
            answer = self._client.request(method, path, **kwargs)
            if answer.status_code != 500:  # its text differs between releases
                break
        if not answer.is_success:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {answer.status_code} {answer.text}",
                request=answer.request,
                response=answer,
            )
        return answer.json() if answer.content else None

    def wait_for_dag(self, dag_id: str, timeout: float = 90) -> None:
        """Until the DAG processor has read the DAG; an import error is raised at once."""

        def known() -> bool:
            found = self.api("GET", "/importErrors")["import_errors"]
            errors = [error for error in found if Path(error["filename"]).name not in self.refused]
            if errors:
                raise RuntimeError("\n".join(error["stack_trace"] for error in errors))
            dags = self.api("GET", "/dags", params={"dag_id_pattern": dag_id, "limit": 100})["dags"]
            return any(dag["dag_id"] == dag_id for dag in dags)

        wait_until(f"DAG {dag_id!r} is parsed", known, timeout)

    def api_token(self) -> str:
        token = httpx.post(f"{self.url}/auth/token", json={}, timeout=30)
        if not token.is_success:
            token = httpx.get(f"{self.url}/auth/token", timeout=30)
        return str(token.raise_for_status().json()["access_token"])

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, logical_date: str | None = None
    ) -> str:
        """Start a run; returns its id."""
        body = {"logical_date": logical_date, "conf": dict(conf or {})}
        run = self.api("POST", f"/dags/{dag_id}/dagRuns", json=body)
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 180) -> str:
        """Until the run has ended; returns its state."""
        ended = ("success", "failed")
        return wait_until(
            f"run {run_id!r} of {dag_id!r} ends",
            lambda: state if (state := self.run_state(dag_id, run_id)) in ended else None,
            timeout,
        )

    def task_instances(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """All instances of one task, by map index."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.api(
                "GET",
                f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances",
                params={"task_id": task_id, "limit": 100, "offset": len(found)},
            )
            found += [ti for ti in page["task_instances"] if ti["task_id"] == task_id]
            if len(page["task_instances"]) < 100:
                return sorted(found, key=lambda ti: int(ti["map_index"]))

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, key: str = "return_value"
    ) -> Any:
        """The value of one XCom."""
        entry = self.api(
            "GET",
            f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}",
            params={"deserialize": "false", "map_index": map_index},
        )
        return self.xcom_value(entry["value"])

    def xcom_value(self, kept: Any) -> Any:
        """What the API shows of an XCom, read."""
        return json.loads(kept) if isinstance(kept, str) else kept

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, try_number: int = 1
    ) -> str:
        """What a task instance logged in one try."""
        answer = self.api(
            "GET",
            f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}",
            params={"map_index": map_index, "full_content": "true"},
        )
        return json.dumps(answer["content"], indent=0)

    def clear(self, dag_id: str, run_id: str, task_ids: list[Any], **options: Any) -> None:
        """Clear task instances: task ids, or ``[task_id, map_index]`` pairs."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": task_ids, "only_failed": False}
        self.api("POST", f"/dags/{dag_id}/clearTaskInstances", json={**body, **options})


def _as_env(settings: Mapping[str, str]) -> dict[str, str]:
    """A section may have a dot of its own, as ``common.io``."""
    split = {name: name.upper().rpartition(".") for name in settings}
    return {
        f"AIRFLOW__{section.replace('.', '_')}__{option}": settings[name]
        for name, (section, _, option) in split.items()
    }


def _airflow() -> list[str]:
    return [sys.executable, "-m", "airflow"]


def _signal(process: psutil.Process, how: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(how)
