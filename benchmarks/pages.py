"""What the pages of streams cost: 100 open streams of 1,000 items, and one of 100,000, on Postgres."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import event, func, select, text, update
from starlette.testclient import TestClient

from deferred_expand.airflow_internals.metadata import StreamRecords, dag_cache
from deferred_expand.plugin.commit import commit_announced
from tests.metadata_database import (
    INSERT,
    RUN_ID,
    TRIGGERER,
    USERS,
    OpenStream,
    metadata_database,
    write_xcom,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAMS, ITEMS, LARGE, BATCH = 100, 1_000, 100_000, 100
AT_ONCE = 20  # batches in a commit
LOOKS = 15

Measured = dict[str, Any]


def run() -> Measured:
    with TemporaryDirectory() as folder, metadata_database("postgresql", Path(folder)):
        _open("large", LARGE)
        for number in range(STREAMS):
            _open(f"small_{number}", ITEMS)
        with create_session() as session:
            session.connection().execute(text("analyze"))
        with _client() as client:
            return {name: _measure(client, *page) for name, page in PAGES.items()}


OF_LARGE = f"dag_id=large&run_id={RUN_ID}"
PAGES = {
    "list": ("streams", False),
    "list, polled": ("streams", True),
    "run, polled": (f"run?{OF_LARGE}", True),
    "stream of 100,000, polled": (f"stream?{OF_LARGE}&task_id={USERS}", True),
    "stream of 100,000 with its picture": (f"stream?{OF_LARGE}&task_id={USERS}", False),
}


def _open(dag_id: str, items: int) -> None:
    """As streams are: its batches committed by the expander's own code, some of its items not done yet."""
    stream = OpenStream.begin(dag_id)
    with patch.dict("os.environ", {"AIRFLOW__CORE__MAX_MAP_LENGTH": "200000"}):
        for first in range(0, items // BATCH, AT_ONCE):
            counts = [BATCH] * min(AT_ONCE, items // BATCH - first)
            stream.announce("board", *counts, first=first)
            with create_session() as session:
                head = stream.head(session)
                records = StreamRecords(session, head, dag_cache(), lambda: None)
                locked = records.lock(TRIGGERER)
                assert locked is not None
                commit_announced(records, locked, head, "board", may_end=False)
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id)).one()
        for number in range(items // BATCH):
            write_xcom(session, run, f"deferred_expand.batch.{number}.writer", USERS, -1, ["1"])
        _end_items(session, dag_id, items)
    print(dag_id, items, file=sys.stderr, flush=True)


def _end_items(session: Any, dag_id: str, items: int) -> None:
    of_stream = (TaskInstance.dag_id == dag_id, TaskInstance.task_id == INSERT)
    before = func.make_interval(0, 0, 0, 0, 0, 0, (items - TaskInstance.map_index) / 100.0)
    session.execute(
        update(XComModel)
        .where(XComModel.dag_id == dag_id, XComModel.key.like("deferred_expand.batch.%"))
        .values(timestamp=func.now() - func.make_interval(0, 0, 0, 0, 0, 0, items / 100.0 + 60))
    )
    for state, last in (("success", items - 60), ("failed", 40)):
        chosen = (*of_stream, TaskInstance.map_index.between(1, last))
        session.execute(update(TaskInstance).where(*chosen).values(state=state, end_date=func.now() - before))


@contextmanager
def _client() -> Iterator[TestClient]:
    from airflow.api_fastapi.app import create_app, get_auth_manager, purge_cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    with patch.dict("os.environ", {"AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this benchmark " * 4}):
        purge_cached_app()
        server: Any = create_app(apps="core")
        client = TestClient(server, base_url="http://airflow")
        user: Any = SimpleAuthManagerUser(username="ada", role="ADMIN")
        client.cookies.set("_token", get_auth_manager().generate_jwt(user))
        yield client
        purge_cached_app()


def _measure(client: TestClient, path: str, polled: bool) -> Measured:
    """Milliseconds, in all and in the database; and how many statements are about streams."""
    answers, in_database, counts = [], [], []
    for _ in range(LOOKS):
        with _timed() as seconds:
            began = time.perf_counter()
            answer = client.get(f"/deferred_expand/{path}", headers={"X-Part": "1"} if polled else {})
            answers.append(1000 * (time.perf_counter() - began))
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
        in_database.append(1000 * sum(seconds))
        counts.append(len(seconds))
    return {"ms": median(answers), "ms_in_database": median(in_database), "statements": counts[-1]}


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Seconds of each statement that is about streams."""
    seconds: list[float] = []
    begun: list[float] = []

    def begin(*_: Any) -> None:
        begun.append(time.perf_counter())

    def end(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "xcom" in statement or "task_instance" in statement or "task_state_store" in statement:
            seconds.append(time.perf_counter() - begun[-1])

    with create_session() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    yield seconds
    event.remove(engine, "before_cursor_execute", begin)
    event.remove(engine, "after_cursor_execute", end)
