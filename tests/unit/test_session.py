"""A trigger that comes late: when its stream has ended, or is another one by now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from airflow.sdk import DAG

from deferred_expand import DeferredExpandOperator
from deferred_expand.airflow_internals.sdk import TaskSkippedEvent, TaskSuccessEvent
from deferred_expand.committing.store import StreamStore
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import BatchEvent
from deferred_expand.triggers.expansion import Expansion
from deferred_expand.triggers.session import StreamSession
from tests.e2e import sources
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[CommitLog], StreamSession]:
    """Of the stream ``"s"``, with a source that is not to be opened."""
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    with DAG(DAG_ID, schedule=None):
        users = DeferredExpandOperator(task_id="users", source=sources.numbers, source_kwargs={"count": 1})
        definition = replace(users.definition, mapped_task_id="insert")

    def make(log: CommitLog) -> StreamSession:
        StreamStore(definition.ref(RUN_ID)).write_log(log)
        airflow.tables.instances = {("insert", index): None for index in range(1 + log.items)}
        not_to_be_opened: Any = None
        return StreamSession(Expansion(definition, RUN_ID, "s", for_head=True), not_to_be_opened)

    return make


@pytest.mark.asyncio
@pytest.mark.parametrize(("items", "ends_as"), [(3, TaskSuccessEvent), (0, TaskSkippedEvent)])
async def test_a_stream_that_has_ended_is_not_walked_again(
    late: Callable[[CommitLog], StreamSession], items: int, ends_as: type
) -> None:
    event = await late(CommitLog("s", items, items, writer="w", ended=True)).walk_on(try_number=1)
    assert type(event) is ends_as


@pytest.mark.asyncio
@pytest.mark.parametrize(("try_number", "waited"), [(2, 12.5), (3, 0.0)])
async def test_a_walk_goes_on_with_the_time_that_its_try_has_waited(
    late: Callable[[CommitLog], StreamSession], try_number: int, waited: float
) -> None:
    session = late(CommitLog("s", waited=(2, 12.5)))
    opener = session._opener = Mock(open=Mock(side_effect=LookupError))
    with pytest.raises(LookupError):
        await session.walk_on(try_number)
    assert opener.open.call_args.kwargs == {"waited": waited, "items_run": True}


@pytest.mark.asyncio
@pytest.mark.parametrize("ended", [False, True])
async def test_a_stream_that_was_opened_anew_is_not_this_triggers(
    late: Callable[[CommitLog], StreamSession], ended: bool
) -> None:
    """A worker looks where it is."""
    event = await late(CommitLog("a newer one", ended=ended)).walk_on(try_number=1)
    assert event == BatchEvent.empty("s")
