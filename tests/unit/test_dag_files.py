"""DAG file processes: real ones, started by this one as by a trigger runner."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from airflow.sdk.execution_time.comms import GetVariable, VariableResult

from deferred_expand.airflow_internals.bundles import load_dag
from deferred_expand.dag_files.orders import ElsewhereRaised, WalkOrder
from deferred_expand.dag_files.pool import DagFileProcesses
from deferred_expand.dag_files.running import DagFileProcessDied
from deferred_expand.exceptions import SourceGaveUp, SourceNotImportable, SourceSkipped
from deferred_expand.sources.arguments import pack
from deferred_expand.sources.dag_file import DagFile
from deferred_expand.sources.plain_json import write

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from deferred_expand.streams.page import Page

DAG = """
import asyncio, os, sys, time
from airflow.sdk import DAG, task, get_current_context, Variable
from deferred_expand import DeferredExpandOperator, Page
import helper

with DAG("dag", schedule=None):
    def make(how):
        async def numbers(count=3, cursor=None):
            for number in range(cursor or 0, count):
                await asyncio.sleep(0)
                yield Page([helper.shape(number)], cursor=number + 1)

        def blocking(count=3):
            yield from range(count)

        async def endless():
            number = 0
            while True:
                number += 1
                yield number

        async def crashes(cursor=None):
            yield Page([1], cursor=1)
            await asyncio.sleep(0.2)
            os._exit(3)

        async def raises():
            yield 1
            raise how["error"]

        async def slow(cursor=None):
            for number in range(cursor or 0, 1000):
                yield Page([number], cursor=number + 1)
                await asyncio.sleep(0.01)

        async def will_not_end():
            yield 1
            while True:
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    pass

        async def asks():
            yield Variable.get("colour")

        async def odd(cursor=None):
            if cursor is None:
                yield Page(["\\ud800"], cursor=2**70)
            raise LookupError("\\ud800")

        async def speaks():
            print("printed")
            yield 1

        return locals()

    class Thing:
        pass

    async def things():
        yield 1
        yield Thing()

    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    for name, source in make({"error": LookupError("no such page")}).items():
        if callable(source):
            DeferredExpandOperator(task_id=name, source=source)
    DeferredExpandOperator(task_id="things", source=things)
    skips, gives_up = AirflowSkipException("none"), AirflowFailException("no")
    DeferredExpandOperator(task_id="skips", source=make({"error": skips})["raises"])
    DeferredExpandOperator(task_id="gives_up", source=make({"error": gives_up})["raises"])
"""


class Walked:
    given = 0

    def __init__(self) -> None:
        self.heard = self.hurried = 0

    def hear(self) -> None:
        self.heard += 1

    def hurry(self) -> None:
        self.hurried += 1

    @contextmanager
    def stopped(self) -> Iterator[None]:
        yield


class Bundle:
    """A local DAG bundle with one DAG file, and what walks its sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = DagFileProcesses()
        self.write("helper.py", "def shape(number): return number")
        self.write("dag.py", DAG)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def definition(self, task_id: str, **changes: Any) -> dict[str, Any]:
        path = sys.path[:]
        dag, errors = load_dag(str(self.folder), "mine", "dag.py", "dag", task_id)
        # This process stands for a trigger runner, which loads no DAG files itself.
        sys.path[:] = path
        sys.modules.pop("helper", None)
        assert not errors
        return {**dag.get_task(task_id).definition.to_json(), **changes}

    def walk(
        self,
        task_id: str,
        definition: dict[str, Any],
        cursor: Any = None,
        stream: str | None = None,
        walked: Walked | None = None,
        file: str = "dag.py",
        **arguments: Any,
    ) -> AsyncGenerator[Page, None]:
        def order(folder: str) -> WalkOrder:
            return WalkOrder(
                folder, "mine", file, definition, "run", 1, write(pack(arguments)), cursor, 0, 1, True
            )

        opened = self.processes.walk(
            DagFile("mine", None, file),
            stream or task_id,
            order,
            walked or Walked(),
            resumable=definition["resumable"],
        )
        return opened

    async def items(self, task_id: str, definition: dict[str, Any], **options: Any) -> list[Any]:
        async with aclosing(self.walk(task_id, definition, **options)) as pages:
            return [json.loads(item.text) async for page in pages for item in page.items]


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.1)
    raise TimeoutError


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bundle]:
    config = [
        {
            "name": "mine",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(tmp_path)},
        }
    ]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(config))
    monkeypatch.setenv("AIRFLOW__WORKERS__MISSING_DAG_RETRIES", "0")
    bundle = Bundle(tmp_path)
    yield bundle
    assert len(bundle.processes) == 0, "each ended with its last stream"


def test_what_only_a_dag_file_has_is_walked(bundle: Bundle) -> None:
    numbers, blocking = bundle.definition("numbers"), bundle.definition("blocking")

    async def run() -> None:
        assert await bundle.items("numbers", numbers) == [0, 1, 2]
        assert await bundle.items("numbers", numbers, cursor=2, count=5) == [2, 3, 4]
        assert await bundle.items("blocking", blocking, count=1000) == list(range(1000))

    asyncio.run(run())


def test_two_states_of_a_bundle_are_walked_at_once_each_with_its_own_modules(bundle: Bundle) -> None:
    definition = bundle.definition("slow")
    bundle.write("dag.py", DAG.replace("yield Page([number]", "yield Page([helper.shape(number)]"))

    async def run() -> None:
        async with aclosing(bundle.walk("slow", definition, stream="first")) as first:
            assert [item.text for item in (await anext(first)).items] == ["0"]
            bundle.write("helper.py", "def shape(number): return -number")
            second = await bundle.items("numbers", bundle_definition, stream="second")
            assert second == [0, -1, -2]
            assert len(bundle.processes) == 1, "the second one's is gone, the first one's is not"
            third = [json.loads(item.text) for item in (await anext(first)).items]
            assert third[0] == 1, "it goes on as it began"

    bundle_definition = bundle.definition("numbers")
    asyncio.run(run())


@pytest.mark.parametrize(
    ("task_id", "error", "text"),
    [
        ("raises", ElsewhereRaised, "no such page"),
        ("skips", SourceSkipped, "none"),
        ("gives_up", SourceGaveUp, "no"),
        ("crashes", DagFileProcessDied, "exit code 3"),
    ],
)
def test_what_a_source_raises_is_told(
    bundle: Bundle, task_id: str, error: type[Exception], text: str
) -> None:
    definition = bundle.definition(task_id)

    async def run() -> None:
        async with aclosing(bundle.walk(task_id, definition)) as pages:
            assert [item.text for item in (await anext(pages)).items] == ["1"], "what it gave before"
            with pytest.raises(error, match=text) as raised:
                await anext(pages)
        if task_id == "raises":
            assert repr(raised.value) == "LookupError('no such page')"
            assert "dag.py" in str(raised.value.__cause__), "with its traceback"

    asyncio.run(run())


def test_texts_and_cursors_may_be_odd(bundle: Bundle) -> None:
    definition = bundle.definition("odd")

    async def run() -> None:
        async with aclosing(bundle.walk("odd", definition)) as pages:
            page = await anext(pages)
            assert ([json.loads(item.text) for item in page.items], page.cursor) == (["\ud800"], 2**70)
            with pytest.raises(ElsewhereRaised, match="\ud800"):
                await anext(pages)

    asyncio.run(run())


def test_an_item_that_cannot_be_written_down_is_told_in_its_place(bundle: Bundle) -> None:
    definition = bundle.definition("things")

    async def run() -> list[Any]:
        async with aclosing(bundle.walk("things", definition)) as pages:
            return [item async for page in pages for item in page.items]

    good, bad = asyncio.run(run())
    assert good.text == "1"
    assert "Thing" in str(bad.error)


IMPORTS = {
    "import sys; sys.exit(4)": "SystemExit: 4",
    "import no_such_module": "No module named 'no_such_module'",
    "1/0": "division by zero",
    "": "is not to be found",
}


@pytest.mark.parametrize("text", IMPORTS)
def test_a_file_that_cannot_be_imported_is_named_with_the_remedy(bundle: Bundle, text: str) -> None:
    definition, slow = bundle.definition("numbers"), bundle.definition("slow")

    async def run() -> None:
        async with aclosing(bundle.walk("slow", slow)) as other:
            await anext(other)
            (bundle.folder / "dag.py").write_text(text)
            with pytest.raises(SourceNotImportable, match=IMPORTS[text]) as raised:
                await bundle.items("numbers", definition)
            assert "dag.py" in str(raised.value)
            assert "load_dags" in str(raised.value)
            await anext(other)

    asyncio.run(run())


def test_a_dag_that_is_not_there_yet_is_looked_for_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    definition = bundle.definition("numbers")
    monkeypatch.setenv("AIRFLOW__WORKERS__MISSING_DAG_RETRIES", "5")
    monkeypatch.setenv("AIRFLOW__WORKERS__MISSING_DAG_RETRY_DELAY", "1")
    (bundle.folder / "dag.py").unlink()

    async def run() -> None:
        walking = asyncio.create_task(bundle.items("numbers", definition))
        await until(lambda: "is looked for again" in caplog.text)
        bundle.write("dag.py", DAG)
        assert await walking == [0, 1, 2]

    asyncio.run(run())


CHANGES = {
    "async def numbers(count=3, cursor=None)": "async def other(count=3, cursor=None)",
    "count=3, cursor=None": "count=3",
    "callable(source)": "callable(source) and name != 'numbers'",
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_source_in_the_same_place_is_told(bundle: Bundle, what: str) -> None:
    definition = bundle.definition("numbers")
    changed = DAG.replace(what, CHANGES[what], 1)
    if what.startswith("async"):
        changed = changed.replace("task_id=name, source", "task_id=name.replace('other', 'numbers'), source")
    if what.startswith("count"):
        changed = changed.replace("cursor or 0", "0", 1)
    bundle.write("dag.py", changed)
    with pytest.raises(SourceNotImportable, match="has changed while the stream was open"):
        asyncio.run(bundle.items("numbers", definition))


def test_a_source_that_kills_its_process_harms_no_other_twice(bundle: Bundle) -> None:
    crashes, slow = bundle.definition("crashes"), bundle.definition("slow")

    async def run() -> None:
        async with aclosing(bundle.walk("slow", slow)) as pages:
            await anext(pages)
            with pytest.raises(DagFileProcessDied):
                await bundle.items("crashes", crashes)
            with pytest.raises(DagFileProcessDied):
                async for _ in pages:
                    pass
        async with aclosing(bundle.walk("slow", slow, cursor=1)) as pages:
            await anext(pages)
            with pytest.raises(DagFileProcessDied):
                await bundle.items("crashes", crashes, cursor=1)
            await anext(pages)

    asyncio.run(run())


def test_a_process_that_is_killed_is_told_of(bundle: Bundle) -> None:
    slow = bundle.definition("slow")

    async def run() -> None:
        async with aclosing(bundle.walk("slow", slow)) as pages:
            await anext(pages)
            (pid,) = bundle.processes.pids
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(DagFileProcessDied, match="by signal 9"):
                async for _ in pages:
                    pass
            assert not psutil.pid_exists(pid)

    asyncio.run(run())


def test_a_source_that_does_not_end_is_left_and_its_process_ended(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deferred_expand.dag_files.running.CLOSE_PATIENCE", 0.5)
    definition = bundle.definition("will_not_end")

    async def run() -> int:
        async with aclosing(bundle.walk("will_not_end", definition)) as pages:
            await anext(pages)
            (pid,) = bundle.processes.pids
        return pid

    assert not psutil.pid_exists(asyncio.run(run()))


def test_there_are_no_more_processes_than_allowed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__DAG_FILE_PROCESSES", "1")
    slow, numbers = bundle.definition("slow"), bundle.definition("numbers")

    async def run() -> None:
        async with aclosing(bundle.walk("slow", slow)) as pages:
            await anext(pages)
            bundle.write("helper.py", "def shape(number): return 7")
            waiting = asyncio.create_task(bundle.items("numbers", numbers))
            await until(lambda: "dag_file_processes (1)" in caplog.text)
            assert not waiting.done()
        assert await waiting == [7, 7, 7]

    asyncio.run(run())


def test_a_process_is_limited_in_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.write(
        "dag.py",
        """
        from airflow.sdk import DAG
        from deferred_expand import DeferredExpandOperator
        with DAG("dag", schedule=None):
            def large():
                yield 1
                yield len(bytearray(2**30))
            DeferredExpandOperator(task_id="large", source=large)
        """,
    )
    definition = bundle.definition("large")
    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__DAG_FILE_MEMORY", "900")
    with pytest.raises(ElsewhereRaised) as raised:
        asyncio.run(bundle.items("large", definition))
    assert repr(raised.value) == "MemoryError()"


def test_what_it_logs_and_prints_is_logged_here(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    definition = bundle.definition("speaks")
    with caplog.at_level(logging.INFO):
        assert asyncio.run(bundle.items("speaks", definition)) == [1]
    assert ("stdout", logging.INFO, "printed") in caplog.record_tuples


def test_what_it_asks_of_airflow_is_asked_by_the_trigger_runner(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = bundle.definition("asks")
    asked: list[Any] = []

    class Comms:
        async def asend(self, message: Any) -> Any:
            asked.append(message)
            return VariableResult(key=message.key, value="blue") if isinstance(message, GetVariable) else None

    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", Comms(), raising=False)
    assert asyncio.run(bundle.items("asks", definition)) == ["blue"]
    assert [message.key for message in asked if isinstance(message, GetVariable)] == ["colour"]


def test_a_dag_in_a_zip_is_walked(bundle: Bundle) -> None:
    definition = bundle.definition("numbers")
    with zipfile.ZipFile(bundle.folder / "packed.zip", "w") as packed:
        for name in ("dag.py", "helper.py"):
            packed.write(bundle.folder / name, name)
            (bundle.folder / name).unlink()
    assert asyncio.run(bundle.items("numbers", definition, file="packed.zip/dag.py")) == [0, 1, 2]


RUNNER = """
import asyncio, sys
from pathlib import Path
from tests.unit.test_dag_files import Bundle

bundle = Bundle(Path(sys.argv[1]))
definition = bundle.definition(sys.argv[2])
if len(sys.argv) > 3:
    bundle.write("dag.py", sys.argv[3])

async def run():
    async for page in bundle.walk(sys.argv[2], definition):
        print("walked in", *bundle.processes.pids, flush=True)

asyncio.run(run())
"""


def runner(bundle: Bundle, *arguments: str) -> subprocess.Popen[str]:
    """A process that stands for a trigger runner, with a server of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(bundle.folder), *arguments],
        env={**os.environ, "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("text", ["while True: pass", "import time; time.sleep(1000)"])
def test_an_import_without_an_end_is_ended(bundle: Bundle, text: str) -> None:
    _, error = runner(bundle, "numbers", text).communicate(timeout=60)
    assert "SourceNotImportable" in error
    assert "Timeout" in error
    assert "dag.py" in error


def test_nothing_outlives_a_trigger_runner_that_is_killed(bundle: Bundle) -> None:
    process = runner(bundle, "slow")
    assert process.stdout is not None
    told = next(line for line in process.stdout if line.startswith("walked in "))
    walked_in = psutil.Process(int(told.split()[-1]))
    started = [walked_in, *psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
