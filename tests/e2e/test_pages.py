"""Streams in Airflow's web UI, in a browser."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from deferred_expand.airflow_internals.state_store import has_state_store
from deferred_expand.testing.local_airflow import wait_until
from tests.browser import NoBrowser, browser
from tests.e2e import told
from tests.e2e.cluster import start
from tests.e2e.conftest import SUB_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deferred_expand.testing.local_airflow import LocalAirflow
    from tests.e2e.runs import Run

pytestmark = pytest.mark.parametrize("airflow", ["expander"], indirect=True)
PATIENCE = 120_000  # milliseconds; on few processors a page takes its time


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        with browser() as running:
            yield running
    except NoBrowser as error:
        if os.environ.get("REQUIRE_BROWSER"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def failing(airflow: LocalAirflow, tmp_path: Path) -> Run:
    """Of three items the second has failed, and the stream is open."""
    run, gates = start(airflow, "gated_failing", tmp_path)
    gates.open(3)
    wait_until("all have ended", lambda: run.states("echo")[1:] == ["success", "failed", "success"], 120)
    return run


@pytest.fixture
def held(airflow: LocalAirflow, tmp_path: Path) -> Run:
    """Two of ten items are committed, more may not be pending; none of them can start."""
    airflow.api("POST", "/pools", json={"name": "held", "slots": 1})
    run, gates = start(airflow, "gated_held", tmp_path)
    wait_until("the head waits", lambda: run.states("echo") == ["deferred"], 120)
    airflow.api("PATCH", "/pools/held", json={"pool": "held", "slots": 0, "include_deferred": False})
    gates.open(10)
    wait_until("two are committed", lambda: len(run.states("echo")) == 3, 120)
    return run


class Window:
    """Signed in."""

    def __init__(self, chromium: Any, airflow: LocalAirflow, theme: str = "light") -> None:
        self._airflow = airflow
        self.context = chromium.new_context(viewport={"width": 1400, "height": 900})
        self.context.add_cookies([{"name": "_token", "value": airflow.api_token(), "url": airflow.url}])
        self.context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.wrong: list[str] = []
        self.page.on("console", lambda told: self.wrong.append(told.text) if told.type == "error" else None)

    def open(self, path: str) -> Any:
        """:return: the frame in it."""
        self.page.goto(f"{self._airflow.url}{path}")
        return self.page.frame_locator("iframe")

    @property
    def frame(self) -> Any:
        """In which the pages of streams are."""
        return next(frame for frame in self.page.frames if "/deferred_expand/" in frame.url)

    def open_stream(self, run: Run) -> Any:
        frame = self.open(f"/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}/plugin/streams-of-run")
        frame.get_by_role("link", name="stream", exact=True).click()
        frame.locator(".tiles").wait_for()
        return frame


@pytest.fixture
def window(chromium: Any, airflow: LocalAirflow) -> Iterator[Window]:
    made = Window(chromium, airflow)
    yield made
    made.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_stream_is_found_and_shown_as_airflow_looks(
    chromium: Any, airflow: LocalAirflow, failing: Run, theme: str
) -> None:
    window = Window(chromium, airflow, theme)
    listed = window.open("/plugin/streams")
    listed.get_by_text(failing.run_id).wait_for()
    frame = window.open_stream(failing)
    assert "3" in frame.locator(".tiles div", has_text="committed").first.inner_text()
    assert frame.locator("svg.chart path.committed").is_visible()
    colour = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
    airflows = window.page.evaluate(colour, "--chakra-colors-bg")
    assert airflows
    assert window.frame.evaluate(colour, "--airflow-bg") == airflows
    assert window.frame.evaluate("document.documentElement.classList.contains('dark')") is (theme == "dark")
    origin = airflow.url.removesuffix(SUB_PATH)  # which Airflow 3.2 itself asks, for its version
    assert not [asked for asked in window.asked if not asked.startswith((origin, "data:", "blob:"))]
    ours = [asked for asked in window.asked if "deferred_expand" in asked]
    assert ours
    assert not [asked for asked in ours if not asked.startswith(f"{airflow.url}/deferred_expand/")]
    assert not [told for told in window.wrong if "Content Security Policy" in told]
    window.context.close()


def test_a_failed_item_leads_to_its_log_and_back(window: Window, failing: Run) -> None:
    frame = window.open_stream(failing)
    frame.get_by_role("link", name="log of item 2").click()
    window.page.wait_for_url("**/tasks/echo/mapped/2**")
    window.page.get_by_text("as told").first.wait_for()
    window.page.go_back()
    frame.locator("h1").wait_for()


def test_a_stream_is_stopped_after_it_was_asked_for(window: Window, failing: Run) -> None:
    frame = window.open_stream(failing)
    frame.get_by_role("button", name="Stop").click()
    frame.get_by_role("button", name="Cancel").click()
    assert failing.states("echo")[0] == "deferred"
    frame.get_by_role("button", name="Stop").click()
    frame.locator("dialog button.yes").click()
    frame.get_by_text("stopped (success)").wait_for()
    assert failing.states("echo")[0] == "success"


def test_limits_are_changed_and_the_walk_is_paused(window: Window, airflow: LocalAirflow, held: Run) -> None:
    frame = window.open_stream(held)
    committed = frame.locator(".tiles div", has_text="committed").first
    holds = frame.locator("#control")
    frame.get_by_text("items to end (max_pending), since").wait_for()
    assert "max_pending 2, rate_limit none, tolerate none, max_items 40" in holds.inner_text()
    assert frame.locator("dd code").all_inner_texts() == [".filter(builtins:str)"]

    frame.get_by_label("max_pending").fill("5")
    frame.get_by_label("max_pending").press("Enter")
    committed.get_by_text("5", exact=True).wait_for()
    assert len(held.states("echo")) == 6
    frame.get_by_text("max_pending 5 (the DAG: 2)").wait_for()

    frame.get_by_role("button", name="Pause").click()
    frame.locator("dialog button.yes").click()
    frame.get_by_role("button", name="Resume").wait_for()
    frame.get_by_text("a person to resume it, since").wait_for()
    frame.get_by_label("max_pending").fill("8")
    frame.get_by_role("button", name="Change").click()
    frame.get_by_text("max_pending 8 (the DAG: 2)").wait_for()
    log = "max_pending=8"
    wait_until("it is known", lambda: log in held.log("echo", 0), 60)
    assert len(held.states("echo")) == 6, "paused"

    frame.get_by_role("button", name="Resume").focus()
    window.page.wait_for_timeout(4000)  # the page has looked again meanwhile
    window.page.keyboard.press("Enter")
    frame.locator("dialog button.yes").wait_for()
    window.page.keyboard.press("Shift+Tab")  # from Cancel
    window.page.keyboard.press("Enter")
    committed.get_by_text("8", exact=True).wait_for()

    frame.get_by_label("tolerate").fill("<b>many</b>")
    frame.get_by_role("button", name="Change").click()
    frame.get_by_text("is not obeyed: tolerate is '<b>many</b>'").wait_for()
    events = airflow.api("GET", "/eventLogs", params={"dag_id": held.dag_id, "limit": 100})["event_logs"]
    written = [event["event"] for event in events if event["run_id"] == held.run_id]
    assert written.count("create_xcom_entry") == 1, "Airflow's audit log has it"
    assert written.count("update_xcom_entry") == 5, "with the first, which found nothing"


@pytest.mark.skipif(not has_state_store(), reason="Airflow 3.2 has no task state store")
def test_an_instance_that_iterates_is_changed_while_it_runs(
    window: Window, airflow: LocalAirflow, tmp_path: Path
) -> None:
    run, _ = told.start(airflow, "iterated_async", tmp_path, items=400, takes=1.0)
    wait_until("it runs", lambda: run.states("items") == ["running"], 120)
    address = f"/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}/plugin/streams-of-run"
    frame = window.open(address)
    frame.get_by_label("concurrency").fill("100")
    frame.get_by_role("button", name="Change").click()
    assert run.wait(240) == "success", "which at four at a time takes 100 s"
    frame.get_by_text("does not write into its audit log").wait_for()
    window.page.goto("about:blank")
    frame = window.open(address)
    frame.get_by_text("Instances that iterate").wait_for()
    shown = frame.locator("section[data-name=iterating] td").all_inner_texts()
    assert [text.strip() for text in shown[1:6]] == ["success", "400", "400", "0", "0"]
    assert shown[-1].strip() == "100, 0"
