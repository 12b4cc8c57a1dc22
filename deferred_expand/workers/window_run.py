"""The run of another DAG that works on a window: found, started, gone on with, never made twice."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.runs import RunRefused, dag_run, run_again, start_run
from deferred_expand.airflow_internals.sdk import AirflowFailException, BaseXCom
from deferred_expand.committing.store import CHILD_KEY
from deferred_expand.exceptions import WindowRunFailed
from deferred_expand.workers.windows import WINDOW_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.workers.windows import Window

LONGEST_RUN_ID = 200  # characters, of the 250 that Airflow has
_OPENING = 12  # characters of the stream's opening that tell it from others


def child_run_id(window: Window) -> str:
    """Of parent, opening and window; hashed when too long."""
    ref = window.ref
    number = f"{window.opening[:_OPENING]}.{window.number}"
    told = f"{ref.dag_id}.{ref.run_id}.{ref.task_id}.{number}"
    if len(told) <= LONGEST_RUN_ID:
        return told
    digest = hashlib.sha256(told.encode()).hexdigest()[:20]
    return f"{told[: LONGEST_RUN_ID - 40 - len(number)]}.{digest}.{number}"


class WindowRun:
    """
    The child of one instance.

    :param ti: the instance, which runs.
    """

    def __init__(self, dag_id: str, window: Window, ti: Any) -> None:
        self.dag_id, self.window, self._ti = dag_id, window, ti
        self.run_id = child_run_id(window)
        # Of the stream, not the instance's own: those Airflow deletes when a try begins.
        note_key = f"deferred_expand.run.{ti.task_id}.{ti.map_index}"
        self._note: dict[str, Any] = {"key": note_key, "task_id": window.ref.task_id, "map_index": -1}
        self._note |= {"dag_id": window.ref.dag_id, "run_id": window.ref.run_id}
        self.child: dict[str, Any] = {"key": CHILD_KEY, "task_id": ti.task_id, "map_index": ti.map_index}
        self.child |= {"dag_id": ti.dag_id, "run_id": ti.run_id}

    @property
    def where(self) -> str:
        """For messages."""
        return f"run {self.run_id!r} of DAG {self.dag_id!r}"

    def attach(self, conf: dict[str, Any], label: str) -> bool:
        """
        Have the child run, one that is there already if there is; a finished one is done.

        :param label: of the instance.
        :return: whether it is to be waited for.
        :raises WindowRunFailed: it cannot be started.
        """
        found = dag_run(self.dag_id, self.run_id)
        clear = None
        if found is None:
            self._start(conf)
        else:
            self._check(found.conf or {})
            state = str(found.state.value)
            if state == "success" and not self._is_wanted_again(found.clear_number or 0):
                self.note_done()
                return False
            if state == "success":
                self._start_again()
            clear = found.clear_number if state == "failed" else None
        # Found there by the expander: see plugin/children.py.
        told = {"dag_id": self.dag_id, "run_id": self.run_id, "clear": clear, "label": label}
        BaseXCom.set(value=told, **self.child)
        return True

    def note_ended(self) -> None:
        """Nobody waits for it any more."""
        BaseXCom.delete(**self.child)

    def note_done(self) -> None:
        """It has ended well, for this clear of the instance."""
        BaseXCom.set(value={"done": self._clear, "again": None}, **self._note)

    @property
    def _clear(self) -> int:
        """A clear gives an instance more tries (airflow/models/taskinstance.py, clear_task_instances)."""
        return int(self._ti.max_tries)

    def _is_wanted_again(self, clear_number: int) -> bool:
        """
        A person has cleared the instance after its success, and the child has not run again since.

        :param clear_number: how often the child was cleared.
        """
        noted = BaseXCom.get_one(**self._note)
        if noted is None or noted["done"] == self._clear:
            return False
        asked = [self._clear, clear_number]
        if noted["again"] is None or noted["again"][0] != self._clear:
            BaseXCom.set(value={**noted, "again": asked}, **self._note)
            return True
        return bool(noted["again"] == asked)

    def _start(self, conf: dict[str, Any]) -> None:
        with self._saying_why_not():
            start_run(self.dag_id, self.run_id, {**conf, WINDOW_KEY: self.window.to_json()})

    def _start_again(self) -> None:
        with self._saying_why_not():
            run_again(self.dag_id, self.run_id)

    @contextmanager
    def _saying_why_not(self) -> Iterator[None]:
        try:
            yield
        except RunRefused as refused:
            raise WindowRunFailed(f"{self.where} cannot be started for {self.window}: {refused}") from refused

    def _check(self, conf: dict[str, Any]) -> None:
        if conf.get(WINDOW_KEY) != self.window.to_json():
            raise AirflowFailException(
                f"{self.where} is there already and was not made for {self.window}: its conf has "
                f"{conf.get(WINDOW_KEY)!r}. Delete it, and clear this instance"
            )
