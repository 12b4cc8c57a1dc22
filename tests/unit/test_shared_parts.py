"""What the streams of one triggerer share: no stream can hold it up, and half of it is waited for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow._shared.plugins_manager import _load_plugins_from_plugin_directory

from deferred_expand.airflow_internals.sdk import BaseXCom
from deferred_expand.committing import store
from deferred_expand.committing.store import StreamStore
from deferred_expand.definition import StreamDefinition
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.shaping.steps import NamedStep
from deferred_expand.sources.arguments import pack
from deferred_expand.sources.importing import ImportPath
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers import calls, session
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.streaming import StreamingExpansionTrigger
from deferred_expand.walking.registry import WalkRegistry
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio

SHARED = 16  # threads for calls on Airflow
NUMBERS = "tests.e2e.sources:numbers"


@dataclass
class Gate:
    """Where whatever comes by stands still until it is opened."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    opened: threading.Event = field(default_factory=threading.Event)

    def pass_by(self) -> None:
        self.entered.release()
        assert self.opened.wait(60)

    async def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.entered.acquire, timeout=30)


gate = Gate()


@pytest.fixture(autouse=True)
def _gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(globals(), "gate", Gate())
    yield
    gate.opened.set()


@pytest.fixture(autouse=True)
def _airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    MemoryAirflow().install(monkeypatch)
    monkeypatch.setattr(session, "_walks", WalkRegistry())
    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__REQUEUE_DELAY", "0")
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")


async def walked(task_id: str, source: str = NUMBERS, step: str | None = None) -> BatchEvent:
    """What a stream of three items hands over, by its trigger."""
    definition = StreamDefinition(
        dag_id=DAG_ID,
        task_id=task_id,
        source=ImportPath(source),
        hops_on_worker=False,
        in_dag_file=False,
        resumable=True,
        takes_context=False,
        parents=(),
        mapped_task_id=f"insert_{task_id}",
        steps=(NamedStep("map", ImportPath(step)),) if step else (),
        item_steps=(),
        batch_size=100,
        batch_interval=0.1,
        source_retries=0,
        retry=None,
        materialize="callback",
        max_pending=None,
        rate_limit=None,
        max_items=None,
        fail_fast=False,
    )
    StreamStore(definition.ref(RUN_ID)).write_log(CommitLog("s"))
    expansion = Expansion(definition, RUN_ID, "s", for_head=True)
    trigger = StreamingExpansionTrigger(source_kwargs=pack({"count": 3}), expansion=expansion.to_json())
    ti: Any = SimpleNamespace(try_number=1, task_id=definition.mapped_task_id)
    trigger.task_instance = ti
    async with aclosing(trigger.run()) as events:  # type: ignore[type-var]
        async for event in events:
            return BatchEvent.from_json(event.payload)
    raise AssertionError("no event")


# -- threads ------------------------------------------------------------------------------------------


def slow_step(item: Any) -> Any:
    gate.pass_by()
    return item


class SlowBackend(BaseXCom):
    """An object store that stands still for some tasks."""

    @staticmethod
    def serialize_value(value: Any, *, task_id: str | None = None, **where: Any) -> Any:
        if (task_id or "").startswith("slow"):
            gate.pass_by()
        return BaseXCom.serialize_value(value, task_id=task_id, **where)


@pytest.mark.parametrize("slow", ["step", "backend", "import"])
async def test_what_stands_still_in_many_streams_holds_no_other_up(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"step": f"{__name__}:slow_step"} if slow == "step" else {}
    if slow == "backend":
        monkeypatch.setattr(store, "XCom", SlowBackend)
    if slow == "import":
        monkeypatch.syspath_prepend(tmp_path)
        for number in range(SHARED + 1):
            text = f"import {__name__} as test\ntest.gate.pass_by()\nfrom tests.e2e.sources import numbers\n"
            (tmp_path / f"slow_module_{number}.py").write_text(text)
    tasks = [
        asyncio.create_task(
            walked(f"slow_{n}", f"slow_module_{n}:numbers" if slow == "import" else NUMBERS, **options)
        )
        for n in range(SHARED + 1)
    ]
    await gate.wait_for(SHARED)
    event = await asyncio.wait_for(walked("quick"), 20)
    assert (sum(event.counts), event.ended) == (3, True)
    gate.opened.set()
    for event in await asyncio.gather(*tasks):
        assert event.counts
        assert event.failure is None


async def test_a_slow_step_does_not_hold_back_what_is_shaped_already() -> None:
    event = await asyncio.wait_for(
        walked("one", f"{__name__}:first_then_slow", f"{__name__}:slow_second"), 20
    )
    assert event.counts == (1,)
    assert not event.ended


def first_then_slow(count: int) -> Iterator[int]:
    yield from range(count)


def slow_second(number: int) -> int:
    if number:
        gate.pass_by()
    return number


# -- modules ------------------------------------------------------------------------------------------


async def test_half_a_module_of_the_plugins_folder_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when Airflow loads its plugins in one thread and a source is imported in another."""
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        f"import {__name__} as test\ntest.gate.pass_by()\nfrom tests.e2e.sources import numbers, times_ten\n"
    )
    (tmp_path / "slow_shop.py").write_text(text)
    loading = asyncio.create_task(
        asyncio.to_thread(_load_plugins_from_plugin_directory, plugins_folder=str(tmp_path))
    )
    await gate.wait_for(1)
    streams = [
        asyncio.create_task(walked(f"stream_{n}", "slow_shop:numbers", "slow_shop:times_ten"))
        for n in range(20)
    ]
    while caplog.text.count("module 'slow_shop' has no attribute 'numbers'") < 20:
        await asyncio.sleep(0.01)
        assert not any(stream.done() for stream in streams)
    gate.opened.set()
    assert await loading == ([], {})
    for event in await asyncio.gather(*streams):
        assert (sum(event.counts), event.ended, event.failure) == (3, True, None)


async def test_an_import_that_goes_on_failing_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "IMPORT_PAUSES", (0.01, 0.02))
    with pytest.raises(SourceNotImportable, match=r"No module named 'no_such'. .*Move the source to a") as it:
        await walked("gone", "no_such.module:source")
    assert isinstance(it.value.__cause__, ModuleNotFoundError)


hiccups: list[Exception] = []


async def test_an_import_that_fails_at_first_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "IMPORT_PAUSES", (0.01, 0.02))
    monkeypatch.syspath_prepend(tmp_path)
    text = f"import {__name__} as test\nif test.hiccups:\n    raise test.hiccups.pop()\n"
    (tmp_path / "on_a_share.py").write_text(text + "from tests.e2e.sources import numbers\n")
    hiccups[:] = [OSError("the share is not there yet"), ImportError("nor now")]
    event = await walked("later", "on_a_share:numbers")
    assert (sum(event.counts), event.ended, hiccups) == (3, True, [])
