"""Take the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from deferred_expand.testing.local_airflow import LocalAirflow, wait_until
from tests.browser import browser

ROOT = Path(__file__).parents[2]
SIZE = {"width": 1280, "height": 1040}


def main() -> None:
    config = {"core.parallelism": "2", "core.max_map_length": "5000"}
    with LocalAirflow(ROOT / "tests/pictures/dags", python_path=[ROOT], config=config) as airflow:
        runs = {}
        for dag_id in ("shop", "returns"):
            airflow.wait_for_dag(dag_id)
            runs[dag_id] = airflow.trigger(dag_id)
        wait_until("much has come", lambda: _count(airflow, "shop", runs["shop"], "ship") > 250, 300)
        wait_until("some have failed", lambda: _failed(airflow, runs["returns"]) > 2, 300)
        with browser() as chromium:
            for theme, dag_id, name in (("light", "shop", "stream"), ("dark", "returns", "failures")):
                page = _page(chromium, airflow, theme)
                _take(page, airflow, "/plugin/streams", "list-light" if theme == "light" else None, "table")
                address = f"/dags/{dag_id}/runs/{quote(runs[dag_id], safe='')}/plugin/streams-of-run"
                _take(page, airflow, address, None, "table")
                page.frame_locator("iframe").locator("td a").first.click()
                page.frame_locator("iframe").locator("svg.chart").wait_for()
                _save(page, f"{name}-{theme}")


def _count(airflow: LocalAirflow, dag_id: str, run_id: str, task_id: str) -> int:
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
    found = airflow.api("GET", path, params={"task_id": task_id, "limit": 1})
    return int(found["total_entries"])


def _failed(airflow: LocalAirflow, run_id: str) -> int:
    found = airflow.api("GET", f"/dags/returns/dagRuns/{run_id}/taskInstances", params={"state": "failed"})
    return int(found["total_entries"])


def _page(chromium: Any, airflow: LocalAirflow, theme: str) -> Any:
    context = chromium.new_context(viewport=SIZE)
    context.add_cookies([{"name": "_token", "value": airflow.api_token(), "url": airflow.url}])
    context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    page = context.new_page()
    page.set_default_timeout(120_000)
    return page


def _take(page: Any, airflow: LocalAirflow, path: str, name: str | None, there: str) -> None:
    """:param there: what must be seen in the frame."""
    page.goto(f"{airflow.url}{path}")
    page.frame_locator("iframe").locator(there).first.wait_for()
    if name is not None:
        _save(page, name)


def _save(page: Any, name: str) -> None:
    page.wait_for_timeout(4000)  # a look later the page has settled, and so has Airflow's around it
    path = ROOT / f"docs/pages/{name}.png"
    path.parent.mkdir(exist_ok=True)
    page.screenshot(path=path)
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
