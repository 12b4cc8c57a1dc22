"""Operators that the end-to-end tests map over streams."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class EchoOperator(BaseOperator):
    """Returns its values, the templated one rendered."""

    template_fields: Sequence[str] = ("templated",)

    def __init__(self, *, value: Any, note: str = "", templated: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value
        self.note = note
        self.templated = templated

    def execute(self, context: Any) -> Any:
        context["echoed"] = self.value
        return {"value": self.value, "note": self.note, "templated": self.templated}


class WaitingEchoOperator(EchoOperator):
    """Waits until a file exists."""

    template_fields = ("gate",)

    def __init__(self, *, gate: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = gate

    def execute(self, context: Any) -> Any:
        while not Path(self.gate).exists():
            time.sleep(0.2)
        return super().execute(context)


class ToldEchoOperator(EchoOperator):
    """Fails for good as long as a file of the folder says so; what has no item waits for its file."""

    template_fields = ("folder",)

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    def execute(self, context: Any) -> Any:
        told = Path(self.folder, f"{self.task_id} {self.value}")
        while self.value is None and not told.exists():
            time.sleep(0.2)
        if told.exists() and told.read_text() == "fail":
            raise AirflowFailException(f"{self.value} is to fail")
        return super().execute(context)


class SleepyEchoOperator(EchoOperator):
    """Sleeps for as many seconds as its value says."""

    def execute(self, context: Any) -> Any:
        time.sleep(self.value)
        return super().execute(context)


class DeferringEchoOperator(EchoOperator):
    """
    Returns its value after it was deferred, for longer than a worker's exit may go unnoticed: stock
    Airflow fails what is resumed earlier now and then (see requeue_delay).
    """

    def execute(self, context: Any) -> Any:
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=4)), method_name="resume")

    def resume(self, context: Any, event: Any = None) -> Any:
        return self.value


class StartsFromTriggerOperator(DeferringEchoOperator):
    """Begins in the triggerer, natively without a worker."""

    start_trigger_args: ClassVar[StartTriggerArgs] = StartTriggerArgs(  # type: ignore[misc]
        trigger_cls="airflow.providers.standard.triggers.temporal.TimeDeltaTrigger",
        trigger_kwargs={"delta": timedelta(seconds=4)},
        next_method="resume",
    )
    start_from_trigger = True


class ContextOperator(BaseOperator):
    """Gives what it sees of its context, before and after it was deferred."""

    def __init__(self, *, told: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.told = told

    def execute(self, context: Any) -> Any:
        self.defer(trigger=CountingTrigger(1), method_name="resume", kwargs={"seen": self._see(context)})

    def resume(self, context: Any, event: Any, seen: list[Any]) -> Any:
        return [seen, self._see(context)]

    def _see(self, context: Any) -> list[Any]:
        return [
            self.told,
            context["params"]["n"],
            context["dag_run"].conf["n"],
            context["dag_run"].run_after is not None,
            context["run_id"] == context["ti"].run_id,
            f"{context['ti'].task_id}[{context['ti'].map_index}]",
            context["macros"].ds_add("2026-01-01", 1),
        ]


class CountingTrigger(BaseTrigger):
    """An ordinary trigger that sends one event after the other."""

    def __init__(self, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = count

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "tests.e2e.operators.CountingTrigger", {"count": self.count}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        for number in range(self.count):
            yield TriggerEvent(number)
