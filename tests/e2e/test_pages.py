"""Streams in Airflow's web UI, in a browser."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from deferred_expand.testing.local_airflow import wait_until
from tests.browser import NoBrowser, browser
from tests.e2e.cluster import start

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
    assert not [asked for asked in window.asked if not asked.startswith((airflow.url, "data:", "blob:"))]
    assert not [told for told in window.wrong if "Content Security Policy" in told]
    window.context.close()


def test_a_failed_item_leads_to_its_log_and_back(window: Window, failing: Run) -> None:
    frame = window.open_stream(failing)
    frame.get_by_role("link", name="log", exact=True).click()
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
