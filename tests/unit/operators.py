"""Operators and triggers for the tests of chains."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowRescheduleException
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from deferred_expand import SourceAdapter, register_source_adapter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.sdk import Context
    from airflow.sdk.exceptions import TaskDeferred


class ValueOperator(BaseOperator):
    """Returns what it is given."""

    template_fields = ("value",)

    def __init__(self, *, value: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value

    def execute(self, context: Context) -> Any:
        return self.value


class TellTrigger(BaseTrigger):
    """Sends one event; or raises, wants to exit, sends none, takes forever, ends the task."""

    asked = 0

    def __init__(self, payload: Any = None, how: str = "event") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.payload = payload
        self.how = how

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.TellTrigger", {"payload": self.payload, "how": self.how}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        if self.how == "raises":
            raise LookupError("the trigger broke")
        if self.how == "exits":
            raise SystemExit(3)
        if self.how == "second time":
            TellTrigger.asked += 1
            if TellTrigger.asked == 1:
                raise ConnectionResetError
            yield TriggerEvent(self.payload)
        if self.how == "hangs":
            await asyncio.Event().wait()
        if self.how == "ends":
            yield TaskSuccessEvent(xcoms={"return_value": ["last"]})
        if self.how in ("event", "twice"):
            yield TriggerEvent(self.payload)
        if self.how == "twice":
            yield TriggerEvent(self.payload)


class NoteTrigger(TellTrigger):
    """A trigger as a source: an event for each number."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    async def run(self) -> AsyncIterator[TriggerEvent]:
        for number in range(self.count):
            yield TriggerEvent(number)


class PagingOperator(BaseOperator):
    """Defers once for each page, and pushes it, as providers' operators do."""

    def __init__(
        self, *, pages: int, how: str = "event", timeout: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.pages = pages
        self.how = how
        self.timeout = timedelta(seconds=timeout) if timeout else None

    def execute(self, context: Context) -> Any:
        self._ask(0)

    def _ask(self, number: int) -> None:
        self.defer(
            trigger=TellTrigger(number, self.how),
            method_name="take",
            kwargs={"secret": "hunter2"},
            timeout=self.timeout,
        )

    def take(self, context: Context, event: Any, secret: str) -> list[str]:
        assert secret == "hunter2"
        page = [f"{event}a", f"{event}b"]
        if event + 1 == self.pages:
            return page
        context["ti"].xcom_push("return_value", page)
        self._ask(event + 1)
        raise AssertionError("deferred before")


class QuietFirstOperator(BaseOperator):
    """
    Two pages, after a hop that gives nothing.

    :cvar bad: what is wrong with the first page.
    """

    bad = ""

    def execute(self, context: Context) -> Any:
        self._ask(0)

    def _ask(self, number: int) -> None:
        self.defer(trigger=TellTrigger(number), method_name="take")

    def take(self, context: Context, event: Any) -> list[str]:
        if event == 2:
            return ["2a", "2b"]
        if event == 1:
            second: list[Any] = [object()] if self.bad == "1b" else ["1b"] if not self.bad else []
            context["ti"].xcom_push("return_value", ["1a", *second])
        self._ask(event + 1)
        raise AssertionError("deferred before")


class SlowOperator(QuietFirstOperator):
    """Its sync halves take a while, and it goes on whatever error it gets."""

    def __init__(self, *, begins_in: float = 0, takes: float = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.begins_in = begins_in
        self.takes = takes

    def execute(self, context: Context) -> Any:
        self._sleep(self.begins_in)
        super().execute(context)

    def take(self, context: Context, event: Any) -> list[str]:
        self._sleep(self.takes)
        return super().take(context, event)

    def _sleep(self, seconds: float) -> None:
        with suppress(Exception):
            time.sleep(seconds)


class ReturningOperator(BaseOperator):
    """Never defers."""

    def __init__(self, *, result: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.result = result

    def execute(self, context: Context) -> Any:
        return self.result


class RaisingOperator(BaseOperator):
    """Raises what it is given."""

    def __init__(self, *, error: type[Exception], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def execute(self, context: Context) -> Any:
        raise self.error("by the operator")


class ReschedulingOperator(BaseOperator):
    """Asks to come back once."""

    asked = 0

    def execute(self, context: Context) -> Any:
        ReschedulingOperator.asked += 1
        if ReschedulingOperator.asked == 1:
            raise AirflowRescheduleException(datetime.now(tz=timezone.utc) + timedelta(seconds=0.2))
        return ["at last"]


class HoardingOperator(PagingOperator):
    """Hands all earlier pages from hop to hop, as some providers' operators do."""

    def _ask(self, number: int, kept: list[str] | None = None) -> None:
        self.defer(trigger=TellTrigger(number), method_name="take_all", kwargs={"kept": kept or []})

    def take_all(self, context: Context, event: Any, kept: list[str]) -> list[str]:
        kept = [*kept, f"page {event}".ljust(100)]
        if event + 1 == self.pages:
            return kept
        self._ask(event + 1, kept)
        raise AssertionError("deferred before")


class ForgetfulAdapter(SourceAdapter):
    """Keeps something between hops where another process does not find it."""

    seen = 0

    def of_deferral(
        self, operator: BaseOperator, context: Any, deferred: TaskDeferred, pushed: dict[str, Any]
    ) -> list[Any]:
        self.seen += 1
        return [f"hop {self.seen}"]


class ForgottenOperator(PagingOperator):
    """Of the adapter above."""


class OpaqueOperator(BaseOperator):
    """Returns what no XCom can hold."""

    def execute(self, context: Context) -> Any:
        return [1, object()]


register_source_adapter(ForgottenOperator, ForgetfulAdapter())
