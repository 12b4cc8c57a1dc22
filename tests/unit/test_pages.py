"""The pages of streams as Airflow's own API server serves them: what they show, and to whom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.utils.session import create_session
from sqlalchemy import event, update
from starlette.testclient import TestClient

from deferred_expand.airflow_internals.metadata import StreamRecords, dag_cache
from deferred_expand.airflow_internals.run_overview import TaskStateStoreModel
from deferred_expand.committing.store import (
    ANNOUNCEMENT_KEY,
    BATCHES,
    CHILD_KEY,
    CONTROL_KEY,
    LOG_KEY,
    STREAM_KEY,
)
from deferred_expand.pages.chart import a_minute
from deferred_expand.pages.links import links
from deferred_expand.plugin.commit import commit_announced
from deferred_expand.streams.commit_log import CommitLog
from deferred_expand.streams.events import Announcement, BatchEvent, Failure, WalkState
from deferred_expand.streams.page import Position
from tests.metadata_database import INSERT, RUN_ID, TRIGGERER, USERS, OpenStream, write_xcom

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "<script>alert(1)</script>"
ROLES = {"ada": "ADMIN", "otto": "OP", "ute": "USER", "vic": "VIEWER"}


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from airflow.api_fastapi.app import create_app, purge_cached_app

    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "ada:admin,otto:op,ute:user,vic:viewer")
        passwords = tmp_path_factory.mktemp("passwords") / "passwords.json"
        patches.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        patches.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of these tests " * 4)
        purge_cached_app()
        yield create_app(apps="core")
        purge_cached_app()


def browser(server: Any, name: str | None) -> TestClient:
    """Someone's; without a name nobody has signed in."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    client = TestClient(server, base_url="http://airflow")
    if name is not None:
        user: Any = SimpleAuthManagerUser(username=name, role=ROLES[name])
        client.cookies.set("_token", get_auth_manager().generate_jwt(user))
    return client


@pytest.fixture
def stream(request: pytest.FixtureRequest, database: str) -> OpenStream:
    """Of seven items in two batches: one has failed, one runs, and five are a success."""
    made = OpenStream.begin(re.sub("[^a-z0-9]+", "_", request.node.name))
    made.announce("board", 4, 3)
    with create_session() as session:
        head = made.head(session)
        records = StreamRecords(session, head, dag_cache(), lambda: None)
        run = records.lock(TRIGGERER)
        assert run is not None
        commit_announced(records, run, head, "board", may_end=False)
        write_xcom(session, run, STREAM_KEY, USERS, -1, record())
        for name in ("0.writer", "1.writer"):
            write_xcom(session, run, f"deferred_expand.batch.{name}", USERS, -1, ["1"])
    for index, state in enumerate(["failed", "running", *["success"] * 5], 1):
        set_state(made, index, state)
    return made


def record(**more: Any) -> dict[str, Any]:
    """As the unmapped task writes it down, of a stream that is described in hostile words."""
    control = {"paused": False, "max_pending": 7, "rate_limit": None, "tolerate": None}
    described = {"stream_of": f"my.sources:{HOSTILE}", "mapped_task": INSERT, "waiter": [INSERT, 0]}
    return {**described, "steps": [f"map({HOSTILE})"], "follows": [], "control": control, **more}


def write(stream: OpenStream, key: str, value: Any, task_id: str = USERS, map_index: int = -1) -> None:
    with create_session() as session:
        write_xcom(session, stream.run(session), key, task_id, map_index, value)


def set_state(stream: OpenStream, index: int, state: str) -> None:
    ended = None if state == "running" else datetime.now(tz=timezone.utc)
    with create_session() as session:
        session.execute(
            update(TaskInstance)
            .where(
                TaskInstance.dag_id == stream.dag_id,
                TaskInstance.task_id == INSERT,
                TaskInstance.map_index == index,
            )
            .values(state=state, try_number=1, end_date=ended)
        )


def address(stream: OpenStream, page: str = "stream", task_id: str = USERS) -> str:
    more = f"&task_id={task_id}" if page == "stream" else ""
    return f"/deferred_expand/{page}?dag_id={stream.dag_id}&run_id={RUN_ID}{more}"


@pytest.mark.parametrize("page", ["streams", "run"])
def test_streams_are_listed(server: Any, stream: OpenStream, page: str) -> None:
    listed = browser(server, "vic").get(address(stream, page))
    assert listed.status_code == 200
    assert f"stream?dag_id={stream.dag_id}&amp;run_id={RUN_ID}&amp;task_id={USERS}" in listed.text
    assert "6 of 7 finished, 1 failed" in listed.text


@pytest.mark.parametrize("task_id", [USERS, INSERT])
def test_one_is_shown_with_its_failed_items_and_a_picture(
    server: Any, stream: OpenStream, task_id: str
) -> None:
    page = browser(server, "ada").get(address(stream, task_id=task_id))
    assert page.status_code == 200
    assert "<b>7</b>committed" in page.text
    assert "<b>5</b>succeeded" in page.text
    assert f"runs/{RUN_ID}/tasks/{INSERT}/mapped/1" in page.text, "leads to the failed item's log"
    assert "items over time: 7 committed, 6 finished" in page.text
    assert HOSTILE not in page.text
    assert "&lt;script&gt;alert" in page.text


def test_what_its_walk_waits_for_is_shown(server: Any, stream: OpenStream) -> None:
    walk = WalkState(12, "retry", 1700000000, 2, HOSTILE)
    announcement = Announcement("board", USERS, 0.0, BatchEvent.empty("stream"), walk=walk)
    with create_session() as session:
        write_xcom(session, stream.run(session), ANNOUNCEMENT_KEY, INSERT, 0, announcement.to_json())
    page = browser(server, "vic").get(address(stream)).text
    assert "a retry of the source, since 2023-11-14 22:13:20 UTC" in page
    assert "<b>12</b>given" in page
    assert HOSTILE not in page


def test_how_late_a_commit_was_is_shown(server: Any, stream: OpenStream) -> None:
    staged = int(datetime.now(tz=timezone.utc).timestamp()) - 3000
    write(stream, LOG_KEY, CommitLog("stream", batches=2, items=7, at=staged).to_json())
    page = browser(server, "vic").get(address(stream)).text
    assert re.search(r"<b>(3,00|2,99)\d s</b>lag", page)


def test_what_changes_is_sent_alone(server: Any, stream: OpenStream) -> None:
    part = browser(server, "ada").get(address(stream), headers={"X-Part": "1"})
    assert "<html" not in part.text
    assert "data-picture" not in part.text
    assert "<b>7</b>committed" in part.text


def test_the_traceback_of_a_failed_source_is_shown_as_text(server: Any, stream: OpenStream) -> None:
    with create_session() as session:
        log = CommitLog("stream", batches=2, items=7, failure=Failure("broke", HOSTILE), failed_try=1)
        write_xcom(session, stream.run(session), LOG_KEY, USERS, -1, log.to_json())
    page = browser(server, "ada").get(address(stream))
    assert "The source failed" in page.text
    assert HOSTILE not in page.text


@pytest.mark.parametrize("page", ["streams", "run", "stream"])
def test_who_has_not_signed_in_sees_nothing(server: Any, stream: OpenStream, page: str) -> None:
    assert browser(server, None).get(address(stream, page)).status_code == 401
    forged = browser(server, None)
    forged.cookies.set("_token", "forged")
    assert forged.get(address(stream, page)).status_code in (401, 403)


def test_who_may_not_see_a_dag_does_not_see_its_streams(
    server: Any, stream: OpenStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simple auth manager knows no DAG from another, so it is told to here."""
    from airflow.api_fastapi.app import get_auth_manager

    def allows(self: Any, *, details: Any = None, **_: Any) -> bool:
        return details is not None and details.id != stream.dag_id

    monkeypatch.setattr(type(get_auth_manager()), "is_authorized_dag", allows)
    vic = browser(server, "vic")
    assert [vic.get(address(stream, page)).status_code for page in ("run", "stream")] == [403, 403]
    listed = vic.get("/deferred_expand/streams")
    assert listed.status_code == 200
    assert stream.dag_id not in listed.text


def test_only_who_may_change_task_instances_has_buttons(server: Any, stream: OpenStream) -> None:
    for name in ("ada", "otto", "ute"):
        page = browser(server, name).get(address(stream)).text
        assert ">Stop</button>" in page
        assert ">Pause</button>" in page
    viewers = browser(server, "vic").get(address(stream)).text
    assert "<button" not in viewers
    assert "You may look at this stream, and not change it" in viewers


@pytest.mark.parametrize("missing", ["dag_id", "run_id", "task_id"])
def test_a_page_needs_to_know_of_what(server: Any, missing: str) -> None:
    given = {name: "x" for name in ("dag_id", "run_id", "task_id") if name != missing}
    assert browser(server, "ada").get("/deferred_expand/stream", params=given).status_code == 422


def test_a_task_without_a_stream_is_told_kindly(server: Any, stream: OpenStream) -> None:
    page = browser(server, "ada").get(address(stream, task_id="other"))
    assert page.status_code == 200
    assert "has opened no stream" in page.text


def test_cursors_and_arguments_are_not_shown(server: Any, stream: OpenStream) -> None:
    """They may hold secrets."""
    log = CommitLog("stream", batches=2, items=7, position=Position({"token": "hush"}, 0))
    write(stream, LOG_KEY, log.to_json())
    event_of_page = BatchEvent("stream", "writer", 2, (3,), Position({"token": "hush"}, 0))
    write(stream, ANNOUNCEMENT_KEY, Announcement("board", USERS, 0.0, event_of_page).to_json(), INSERT, 0)
    for page in ("streams", "run", "stream"):
        shown = browser(server, "ada").get(address(stream, page)).text
        assert stream.dag_id in shown
        assert "hush" not in shown


def test_nothing_leaves_the_deployment(server: Any, stream: OpenStream) -> None:
    page = browser(server, "ada").get(address(stream))
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert " style=" not in page.text
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page.text)
    assert page.headers["cache-control"] == "no-store"
    for name in ("look.js", "streams.js", "streams.css"):
        assert browser(server, None).get(f"/deferred_expand/static/{name}").status_code == 200


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked of the database meanwhile, but for who asks."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "revoked_token" not in statement and not statement.startswith(("BEGIN", "PRAGMA", "SET")):
            seen.append(statement)

    with create_session() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_a_list_is_three_statements_however_many_streams_there_are(server: Any, stream: OpenStream) -> None:
    for number in range(3):
        OpenStream.begin(f"{stream.dag_id}_{number}")
    ada = browser(server, "ada")
    ada.get("/deferred_expand/streams")
    with statements() as asked:
        listed = ada.get("/deferred_expand/streams", headers={"X-Part": "1"})
    assert f"{stream.dag_id}_2" in listed.text
    of_streams = [statement for statement in asked if "dag.dag_id" not in statement or "xcom" in statement]
    assert len(of_streams) == 3
    assert len(asked) <= 4, "and one for the teams of their DAGs"
    with statements() as asked:
        shown = ada.get(address(stream), headers={"X-Part": "1"})
    assert "Failed items" in shown.text
    assert len([statement for statement in asked if "xcom" in statement or "task_instance" in statement]) == 3


def test_what_holds_is_shown_with_what_the_dag_says(server: Any, stream: OpenStream) -> None:
    ada = browser(server, "ada")
    assert "max_pending 7, rate_limit none, tolerate none" in ada.get(address(stream)).text
    write(stream, CONTROL_KEY, {"paused": True, "max_pending": 3, "tolerate": "5%"})
    page = ada.get(address(stream)).text
    assert "<b>paused</b>, max_pending 3 (the DAG: 7), rate_limit none, tolerate 5% (the DAG: none)" in page
    assert ">Resume</button>" in page
    assert 'name="max_pending" size="8" value="3"' in page
    assert "paused" in ada.get(address(stream, "run")).text


@pytest.mark.parametrize(
    "written", [{"max_pending": HOSTILE}, HOSTILE, {HOSTILE: 1}, [HOSTILE], 5, {"paused": HOSTILE}]
)
def test_what_cannot_be_obeyed_is_told(server: Any, stream: OpenStream, written: Any) -> None:
    write(stream, CONTROL_KEY, written)
    page = browser(server, "ada").get(address(stream)).text
    assert "is not obeyed" in page
    assert "max_pending 7" in page, "holds"
    assert HOSTILE not in page
    assert HOSTILE not in browser(server, "ada").get(address(stream, "run")).text


def test_where_no_item_has_an_instance_nothing_that_counts_them_is_changed(
    server: Any, stream: OpenStream
) -> None:
    control = {"paused": False, "max_pending": None, "rate_limit": None, "tolerate": None}
    write(stream, STREAM_KEY, record(uncounted=["max_pending", "tolerate"], control=control))
    write(stream, CONTROL_KEY, {"max_pending": 5})
    page = browser(server, "ada").get(address(stream)).text
    assert "is not obeyed: max_pending counts instances of items" in page
    assert 'name="max_pending"' not in page
    assert 'name="rate_limit"' in page


def test_a_stream_that_workers_walk_has_no_limits_to_change(server: Any, stream: OpenStream) -> None:
    write(stream, STREAM_KEY, record(walked_on_workers=True))
    page = browser(server, "ada").get(address(stream)).text
    assert ">Stop</button>" in page
    assert ">Pause</button>" not in page
    assert 'name="max_pending"' not in page


def test_streams_that_follow_others_are_drawn_with_them(server: Any, database: str) -> None:
    stream = OpenStream.begin(
        "followed", upstream=lambda: EmptyOperator(task_id="names") >> EmptyOperator(task_id="lines")
    )
    first = CommitLog("stream", batches=1, items=1, index=(((1, "0.w"),),))
    write(stream, LOG_KEY, first.to_json())
    write(stream, f"{BATCHES}0.w", ["1"])
    log = CommitLog("other", batches=1, items=2, index=(((1, "0.w"),),), unit="item")
    for task_id, follows in (("names", [USERS]), ("lines", ["names"])):
        write(stream, LOG_KEY, log.to_json(), task_id)
        write(stream, STREAM_KEY, record(follows=follows, mapped_task=None, waiter=[task_id, -1]), task_id)
        write(stream, f"{BATCHES}0.w", ["1", "2"], task_id)
    listed = browser(server, "vic").get(address(stream, "run")).text
    places = [listed.index(f"&amp;task_id={task_id}") for task_id in (USERS, "names", "lines")]
    assert places == sorted(places)
    assert 'class="deep-1"' in listed
    assert "follows names" in listed
    page = browser(server, "vic").get(address(stream, task_id="names")).text
    assert re.search(r"<dt>Follows</dt>.*task_id=users", page)
    assert re.search(r"<dt>Followed by</dt>.*task_id=lines", page)
    assert page.count('class="line other"') == 2


def test_windows_that_are_waited_for_lead_to_their_runs(server: Any, stream: OpenStream) -> None:
    child = OpenStream.begin(f"{stream.dag_id}_child")
    told = {"dag_id": child.dag_id, "run_id": RUN_ID, "clear": None, "label": HOSTILE}
    write(stream, CHILD_KEY, told, INSERT, 2)
    write(stream, CHILD_KEY, {**told, "dag_id": HOSTILE, "run_id": HOSTILE}, INSERT, 3)
    with create_session() as session:
        of_stream = (TaskInstance.dag_id == stream.dag_id, TaskInstance.map_index == 2)
        session.execute(update(TaskInstance).where(*of_stream).values(_rendered_map_index=HOSTILE))
    page = browser(server, "vic").get(address(stream, "run")).text
    assert f"dags/{child.dag_id}/runs/{RUN_ID}" in page
    assert f"</a> of {child.dag_id}</td>\n<td>running</td>" in page
    assert "not there yet" in page
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 3, "the label, and the run and DAG of the other"


@pytest.mark.skipif(TaskStateStoreModel is None, reason="Airflow 3.2 has no task state store")
def test_instances_that_iterate_are_shown_with_their_limits(server: Any, stream: OpenStream) -> None:
    kept = {
        "deferred_expand.limits": json.dumps({"concurrency": 4, "tolerate": "5%"}),
        "deferred_expand.items": json.dumps({"total": 1000, "done": 990, "skipped": 3, "failed": 2}),
        "deferred_expand.failures": json.dumps([[7, HOSTILE], [8, "late"]]),
    }
    hostile = {"deferred_expand.limits": HOSTILE, "deferred_expand.items": json.dumps([HOSTILE])}
    with create_session() as session:
        run = stream.run(session)
        for index, values in ((2, kept), (3, hostile)):
            for key, value in values.items():
                where = {"dag_id": stream.dag_id, "run_id": RUN_ID, "task_id": INSERT, "map_index": index}
                session.add(TaskStateStoreModel(dag_run_id=run.id, key=key, value=value, **where))
    page = browser(server, "vic").get(address(stream, "run")).text
    row = re.findall(r"<td[^>]*>([^<]*)</td>", page[page.index("Instances that iterate") :])
    assert row[:5] == ["running", "1,000", "990", "3", "2"]
    assert "8: late" in page
    assert HOSTILE not in page
    assert 'data-put="' not in page
    changed = browser(server, "ada").get(address(stream, "run")).text
    assert f"taskInstances/{INSERT}/state-store/deferred_expand.limits?map_index=2" in changed


@pytest.mark.parametrize("unsure", ["x", "a/b c?&#%", "é<b>"])
def test_names_are_quoted_in_addresses(unsure: str) -> None:
    stream: Any = SimpleNamespace(
        dag_id=f"d{unsure}", run_id=f"r{unsure}", task_id=f"t{unsure}", head=(f"h{unsure}", 0),
        mapped_task_id="m",
    )  # fmt: skip
    for address_of in (links.run_page, links.control, links.mark_head, links.clear, links.stream_page):
        made = urlsplit(address_of(stream))
        assert not made.fragment
        assert "<" not in made.geturl()
        names = [unquote(made.path), *parse_qs(made.query).get("dag_id", [])]
        assert any(f"d{unsure}" in name for name in names)
        if address_of is not links.stream_page:
            assert len(made.path.split("/")) == len(address_of(PLAIN).split("/"))


PLAIN: Any = SimpleNamespace(dag_id="d", run_id="r", task_id="t", head=("h", 0), mapped_task_id="m")


def test_how_much_has_come_of_late() -> None:
    assert a_minute([], 100.0) == 0
    assert a_minute([(90.0, 10), (100.0, 20)], 100.0) == 120, "20 in the ten seconds that it exists"
    assert a_minute([(0.0, 10), (500.0, 20), (560.0, 50)], 570.0) == 30
    assert a_minute([(0.0, 10), (1.0, 20)], 1000.0) == 0


def test_components_that_serve_no_pages_do_not_load_them() -> None:
    check = (
        "import sys; from airflow.plugins_manager import _get_plugins; plugins, errors = _get_plugins(); "
        "assert any(p.name == 'deferred_expand' for p in plugins), (plugins, errors); "
        "assert 'deferred_expand.pages.app' not in sys.modules; "
        "assert 'airflow.api_fastapi.core_api.security' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
