"""Windows of a stream as runs of another DAG: what starts them, and what that DAG reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from deferred_expand.airflow_internals.comms import is_in_process, set_map_index_label
from deferred_expand.airflow_internals.runs import BaseOperatorLink, url_of_run
from deferred_expand.airflow_internals.sdk import AirflowFailException, BaseOperator, BaseXCom, PlainXComArg
from deferred_expand.airflow_internals.tasks import MappableValue, current_dag_id
from deferred_expand.exceptions import DefinitionError, WindowRunFailed
from deferred_expand.triggers.window_run import WindowRunTrigger
from deferred_expand.workers.window_run import WindowRun
from deferred_expand.workers.windows import WINDOW_KEY, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

CHILD_RUN, PARENT = "deferred_expand.child_run", "deferred_expand.parent"


class WindowRunLink(BaseOperatorLink):
    """From a window to its run."""

    name = "Run of the window"

    @property
    def xcom_key(self) -> str:
        return f"_link_{type(self).__name__}"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        return _link_of(ti_key, CHILD_RUN)


class ParentLink(BaseOperatorLink):
    """From the run of a window to its stream."""

    name = "Stream of the window"

    @property
    def xcom_key(self) -> str:
        return f"_link_{type(self).__name__}"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        return _link_of(ti_key, PARENT)


def _keep_link(ti: Any, key: str, link: str) -> None:
    """Where Airflow keeps links: not in an XCom backend (airflow/sdk/execution_time/task_runner.py)."""
    BaseXCom.set(key=key, value=link, **_place_of(ti))


def _link_of(ti_key: Any, key: str) -> str:
    return str(BaseXCom.get_one(key=key, **_place_of(ti_key)) or "")


def _place_of(instance: Any) -> dict[str, Any]:
    return {name: getattr(instance, name) for name in ("dag_id", "run_id", "task_id", "map_index")}


class WindowRunOperator(BaseOperator):
    """
    Works on each window of a stream in a run of another DAG, which it waits for.

    ::

        orders = DeferredExpandOperator(task_id="orders", source=list_orders, max_pending=5)
        WindowRunOperator.partial(task_id="load", trigger_dag_id="load_window").expand(
            window=orders.output.window(500)
        )

    It is deferred while it waits. Where the run is there already it is waited for: a retry never makes a
    second one. Of one that has failed the failed tasks are cleared, which needs an expander. One that has
    succeeded is done; cleared after that, the instance has the run run again as a whole.

    :param window: of a stream.
    :param trigger_dag_id: of the DAG; a :class:`StreamWindow` in it reads the window. (templated)
    :param conf: more for the run's ``conf``. (templated)
    :param results_of: the task of that DAG whose results are the window's: its return value says where
        they are, for :func:`~deferred_expand.window_results`.
    :raises WindowRunFailed: the run has failed, or cannot be started.
    """

    template_fields: Sequence[str] = ("trigger_dag_id", "conf")
    operator_extra_links = (WindowRunLink(),)
    ui_color = "#ffefeb"

    def __init__(
        self,
        *,
        window: Any,
        trigger_dag_id: str,
        conf: dict[str, Any] | None = None,
        results_of: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window = window
        self.trigger_dag_id = trigger_dag_id
        self.conf = conf or {}
        self.results_of = results_of

    def execute(self, context: Any) -> dict[str, Any]:
        run = self._run(context)
        if is_in_process():
            raise AirflowFailException(
                f"{run.where} cannot be waited for in dag.test(), which runs one DAG: test that DAG by itself"
            )
        self._label(context, run)
        ti = context["ti"]
        _keep_link(ti, CHILD_RUN, url_of_run(run.dag_id, run.run_id))
        if not run.attach(self.conf, ti.rendered_map_index or str(ti.map_index)):
            return self._done(run)
        trigger = WindowRunTrigger(dag_id=run.dag_id, run_id=run.run_id, asked=run.child)
        self.defer(trigger=trigger, method_name="ended")

    def ended(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """The run has, or cannot be waited for."""
        run = self._run(context)
        self._label(context, run)
        run.note_ended()
        if event["state"] == "success":
            run.note_done()
            return self._done(run)
        raise WindowRunFailed(f"{run.where}, for {run.window}, {_WHY[event['state']]}")

    def _run(self, context: Any) -> WindowRun:
        if not isinstance(self.window, Window):
            raise AirflowFailException(
                f"task {self.task_id!r}: window is {self.window!r:.100}; expand over .window() of a stream"
            )
        return WindowRun(self.trigger_dag_id, self.window, context["ti"])

    def _label(self, context: Any, run: WindowRun) -> None:
        if self.map_index_template is None:
            set_map_index_label(context, f"window {run.window.number}")

    def _done(self, run: WindowRun) -> dict[str, Any]:
        return {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": self.results_of}


_WHY = {
    "failed": "has failed: see its failed tasks. A retry or a clear of this instance clears them, and waits",
    "deleted": "was deleted: a retry or a clear of this instance starts it anew",
    "unheard": (
        "had failed before, and its failed tasks are not cleared, as no expander answers in this triggerer "
        "(see [deferred_expand] expander). Clear them in the run, and then this instance"
    ),
}


@attrs.define
class WindowOutput(PlainXComArg):
    """The items of a window, to be mapped over as any list, or read."""

    def resolve(self, context: Any) -> Window:
        ti = context["ti"]
        told = BaseXCom.get_one(
            dag_id=ti.dag_id, run_id=ti.run_id, task_id=self.operator.task_id, map_index=-1, key=WINDOW_KEY
        )
        if told is None:
            raise AirflowFailException(
                f"task {self.operator.task_id!r} in DAG {ti.dag_id!r} has not read its window: clear it"
            )
        return Window.from_json(told)


class StreamWindow(BaseOperator):
    """
    The window that this run was made for by a :class:`WindowRunOperator`.

    Its ``output`` is the window's items: any task, or task group, can be mapped over it, or read it.
    """

    operator_extra_links = (ParentLink(),)
    ui_color = "#e8f0fe"

    @classmethod
    def partial(cls, **kwargs: Any) -> NoReturn:
        """:raises DefinitionError: always."""
        raise DefinitionError(
            f"DAG {current_dag_id()!r}, task {kwargs.get('task_id')!r}: a StreamWindow cannot be mapped; map "
            "over its output"
        )

    @property
    def output(self) -> WindowOutput:
        return WindowOutput(operator=self)

    def execute(self, context: Any) -> MappableValue:
        """:raises AirflowFailException: the run has no window."""
        ti = context["ti"]
        told = (context["dag_run"].conf or {}).get(WINDOW_KEY)
        if not isinstance(told, dict):
            raise AirflowFailException(
                f"task {self.task_id!r} in DAG {self.dag_id!r}: run {ti.run_id!r} was made for no window. "
                f"A WindowRunOperator(trigger_dag_id={self.dag_id!r}) in another DAG makes runs for windows"
            )
        window = Window.from_json(told)
        parts = window.parts
        BaseXCom.set(key=WINDOW_KEY, value={**told, "parts": parts}, **{**_place_of(ti), "map_index": -1})
        parent = window.ref
        _keep_link(ti, PARENT, url_of_run(parent.dag_id, parent.run_id, parent.task_id))
        self.log.info("%s has %d item(s)", window, len(window))
        items = f"are read by a task that is given {self.task_id!r}.output"
        return MappableValue({"window": str(window), "items": items}, mapped_length=len(window))
