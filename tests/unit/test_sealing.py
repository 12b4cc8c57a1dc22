"""Arguments and cursors between processes whose Fernet keys may differ."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, crypto
from cryptography.fernet import Fernet

from deferred_expand import DeferredExpandOperator
from deferred_expand.committing.stager import XComStager
from deferred_expand.committing.store import StreamStore
from deferred_expand.exceptions import CannotUnseal
from deferred_expand.sources.arguments import pack
from deferred_expand.sources.sealing import seal, seal_state, unseal
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import Checkpoint
from deferred_expand.streams.page import Page, Position
from deferred_expand.streams.ref import StreamRef
from deferred_expand.triggers.hop import HopTrigger
from deferred_expand.triggers.sealed import WORTH_SEALING_ANEW, SealedElsewhere, require_seal
from deferred_expand.triggers.streaming import StreamingExpansionTrigger
from deferred_expand.walking.walk import Walk
from deferred_expand.workers.waiting import StreamWait
from tests.e2e import sources
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow
from tests.unit import operators
from tests.unit.helpers import PagedNumbers, walk_policy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from deferred_expand.airflow_internals.sdk import BaseTrigger

A, B = (Fernet.generate_key().decode() for _ in range(2))
NONE = ""
REF = StreamRef(DAG_ID, RUN_ID, "users", "insert")
SECRET = "hunter2"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """From here on this process is one with these keys."""

    def use(*keys: str) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", ",".join(keys))
        crypto.get_fernet.cache_clear()

    yield use
    monkeypatch.undo()
    crypto.get_fernet.cache_clear()


@pytest.mark.parametrize(
    ("sealing", "unsealing", "expected"),
    [
        ([A], [A], "good"),
        ([A], [A, B], "good"),
        ([A], [B, A], "old"),
        ([A, B], [B, A], "old"),
        ([A], [B], "foreign"),
        ([A], [NONE], "foreign"),
        ([NONE], [A], "foreign"),
        ([NONE], [NONE], "good"),
    ],
)
def test_whether_it_opens_and_for_how_long(
    use: Callable[..., None], sealing: list[str], unsealing: list[str], expected: str
) -> None:
    value = {"token": SECRET, "after": [1, None]}
    use(*sealing)
    sealed = seal(value)
    assert (SECRET in sealed) == (sealing == [NONE])
    use(*unsealing)
    assert seal_state(sealed) == expected
    if expected == "foreign":
        with pytest.raises(CannotUnseal, match="(another|no) key is set here"):
            unseal(sealed)
    else:
        assert unseal(sealed) == value


class Picky:
    """Something that serde writes, and that cannot be made of it again."""

    def serialize(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def deserialize(data: Any, version: int) -> Any:
        raise ValueError("of no use here")


def test_what_is_wrong_with_a_value_is_not_taken_for_another_key(use: Callable[..., None]) -> None:
    """And to see whether it opens, nothing of an author's is imported or called."""
    use(A)
    sealed = seal({"value": Picky()})
    assert seal_state(sealed) == "good"
    with pytest.raises((ImportError, ValueError)) as error:
        unseal(sealed)
    assert not isinstance(error.value, CannotUnseal)


class Links(PagedNumbers):
    """Pages with signed links as cursors."""

    async def open(self, cursor: Any) -> AsyncGenerator[Any, None]:
        number = int(cursor["link"].rpartition("=")[2]) if cursor else 0
        async for page in super().open(number):
            yield Page(page.items, cursor={"link": f"https://shop.test/?sig={SECRET}&page={page.cursor}"})


@pytest.mark.asyncio
async def test_a_cursor_is_sealed_wherever_it_goes_and_the_source_gets_it_back(
    use: Callable[..., None],
) -> None:
    use(A)
    source, policy = Links(pages=4, size=3), walk_policy(Links(), batch_size=3)

    def open_walk(start: Checkpoint) -> Walk:
        return Walk(source.open, XComStager(StreamStore(REF), "s", 1_000_000), policy, start)

    walk = open_walk(Checkpoint("s"))
    with pytest.MonkeyPatch.context() as patch:
        MemoryAirflow().install(patch)
        walk.start()
        event = await walk.all_batches()
        await walk.close()
        assert SECRET not in json.dumps(event.to_json())
        assert SECRET in unseal(str(event.position.cursor))["link"]
        again = open_walk(Checkpoint("s", 4, 12, event.position))
        again.start()
        assert (await again.all_batches()).ended
        await again.close()
    assert source.opened_at == [0, 4]
    use(B)
    with pytest.raises(CannotUnseal):
        open_walk(Checkpoint("s", 4, 12, event.position))


def test_a_worker_is_asked_once_to_seal_anew(use: Callable[..., None]) -> None:
    use(A)
    sealed, now = seal({}), time.time()
    require_seal(sealed, None)
    require_seal(None, None)
    use(B, A)
    with pytest.raises(SealedElsewhere) as asked:
        require_seal(sealed, None)
    assert asked.value.helps
    require_seal(sealed, now)
    with pytest.raises(SealedElsewhere):
        require_seal(sealed, now - WORTH_SEALING_ANEW - 60)
    use(B)
    for sealed_anew, helps in ((None, True), (now, False), (now - WORTH_SEALING_ANEW - 60, True)):
        with pytest.raises(SealedElsewhere) as asked:
            require_seal(sealed, sealed_anew)
        assert asked.value.helps is helps


def made(trigger: Any) -> dict[str, Any]:
    """The trigger's arguments as this process seals them."""
    arguments: dict[str, Any] = trigger.serialize()[1]
    return arguments


class Head:
    """A stream head, in the worker and in the triggerer."""

    def __init__(self, patch: pytest.MonkeyPatch, source: Any, **source_kwargs: Any) -> None:
        MemoryAirflow().install(patch)
        patch.setenv("AIRFLOW__DEFERRED_EXPAND__REQUEUE_DELAY", "0")
        with DAG(DAG_ID, schedule=None) as dag:
            task = DeferredExpandOperator(task_id="users", source=source, source_kwargs=source_kwargs)
        self.dag, self.task, self.arguments = dag, task, source_kwargs
        self.store = StreamStore(REF)
        self.store.write_log(CommitLog("s"))

    @property
    def log(self) -> CommitLog:
        log = self.store.read_log()
        assert log is not None
        return log

    @property
    def wait(self) -> StreamWait:
        context = {"ti": SimpleNamespace(try_number=1, run_id=RUN_ID)}
        return StreamWait(self.task, self.task.definition, self.arguments, context, for_head=True)

    def event_of(self, trigger: Any) -> dict[str, Any]:
        """What the trigger sends, once it is made again in the triggerer."""
        path, arguments = trigger.serialize()
        assert path.endswith(type(trigger).__name__)
        made: BaseTrigger = type(trigger)(**json.loads(json.dumps(arguments)))

        async def event() -> Any:
            async with aclosing(made.run()) as events:  # type: ignore[type-var]
                return [event.payload async for event in events]

        [payload] = asyncio.run(event())
        return dict(json.loads(json.dumps(payload)))


def test_arguments_that_a_triggerer_cannot_unseal_are_sealed_anew_by_a_worker(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(monkeypatch, sources.numbers, count=3)
    use(A)
    sealed = made(head.wait.go_on(head.log))
    use(B)  # the keys are changed while nobody walks it
    event = head.event_of(StreamingExpansionTrigger(**sealed))
    assert event["stream"] == "s"
    anew = made(head.wait.after(head.log, event))
    require_seal(anew["source_kwargs"], None)
    assert unseal(anew["source_kwargs"]) == unseal(seal(pack({"count": 3})))
    use(A)  # and the triggerer has the worker's key no more than before
    event = head.event_of(StreamingExpansionTrigger(**anew))
    use(B)
    with pytest.raises(CannotUnseal) as error:
        head.wait.after(head.log, event)
    assert str(error.value).startswith(
        "DAG 'dag', task 'users': the triggerer cannot unseal what this worker "
    )
    assert "Set the same [core] fernet_key for workers and triggerers" in str(error.value)


def test_a_cursor_is_sealed_anew_while_the_old_key_is_listed(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(monkeypatch, sources.numbers, count=3)
    use(A)
    position = Position(seal({"after": SECRET}), 1)
    head.store.write_log(CommitLog("s", 1, 3, position, "w"))
    sealed = StreamingExpansionTrigger(**made(head.wait.go_on(head.log)))
    assert head.log.position == position, "nothing is written where nothing has changed"
    use(B, A)
    trigger: Any = head.wait.after(head.log, head.event_of(sealed))
    use(B)
    assert unseal(str(head.log.position.cursor)) == {"after": SECRET}
    assert head.log.position.skip == 1
    require_seal(trigger.serialize()[1]["source_kwargs"], None)


def test_a_cursor_whose_key_is_gone_is_an_error_with_the_remedy(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(monkeypatch, sources.numbers, count=3)
    use(A)
    head.store.write_log(CommitLog("s", 1, 3, Position(seal({"after": SECRET})), "w"))
    use(B)
    with pytest.raises(CannotUnseal) as error:
        head.wait.go_on(head.log)
    assert (
        "DAG 'dag', task 'users': the place that the stream has reached was sealed with a key that is gone"
        in (str(error.value))
    )
    assert "behind the new one in [core] fernet_key" in str(error.value)
    event = {"stream": "s", "sealed_elsewhere": "another key is set here", "helps": False}
    with pytest.raises(CannotUnseal, match="the place that the stream has reached"):
        head.wait.after(head.log, event)
    assert head.log.items == 3, "what is committed stays"


@pytest.mark.usefixtures("without_dag_files")
def test_a_hop_of_a_worker_is_sealed_anew_and_not_made_again(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(monkeypatch, operators.QuietFirstOperator, needs=lambda: None)
    head.arguments = {}
    assert head.task.definition.hops_on_worker
    use(A)
    trigger: Any = head.wait.go_on(head.log)
    assert isinstance(trigger, HopTrigger)
    assert unseal(trigger.hop) != unseal(seal(None))
    use(B, A)
    event = head.event_of(trigger)
    assert "event" not in event, "the trigger of the hop was not run"
    anew: Any = head.wait.after(head.log, event)
    use(B)
    assert isinstance(anew, HopTrigger)
    event = head.event_of(anew)
    assert "event" in event
    use(A)
    event = head.event_of(anew)
    assert not event["helps"]
    with pytest.raises(CannotUnseal, match="Set the same"):
        head.wait.after(head.log, event)
