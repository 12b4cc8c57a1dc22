"""The pages: all open streams, those of a run, and one of them. They only read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deferred_expand.airflow_internals.overview import failed_items, find_streams, times_of_items
from deferred_expand.airflow_internals.web import (
    READS_INSTANCES,
    GetUserDep,
    SessionDep,
    may_change,
    readable,
)
from deferred_expand.committing.store import BATCHES, INDEX
from deferred_expand.overview.stream import KEYS, Stream, clock, moment
from deferred_expand.pages.chart import draw
from deferred_expand.pages.links import links

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

HERE = Path(__file__).parent
MOST_FAILURES = 50  # that are listed
#: Nothing leaves the deployment, nothing within a page is run, and only Airflow may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

app = FastAPI(title="Streams", openapi_url=None, docs_url=None, redoc_url=None)
app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_templates.filters.update({"number": "{:,}".format, "clock": clock, "moment": moment})
_templates.globals["links"] = links


def _page(request: Request, template: str, **values: Any) -> HTMLResponse:
    """A whole page; what changes in it only, where its script asks for that."""
    part = request.headers.get("x-part") == "1"
    text = _templates.get_template(template).render(part=part, **values)
    return HTMLResponse(text, headers=HEADERS)


@app.get("/streams")
def open_streams(request: Request, user: GetUserDep, session: SessionDep) -> HTMLResponse:
    """Those of the whole deployment that the user may see."""
    found = [stream for stream in map(Stream.of, find_streams(session, KEYS)) if stream.is_open]
    allowed = readable(user, {stream.dag_id for stream in found})
    streams = [stream for stream in found if stream.dag_id in allowed]
    return _page(request, "list.html", streams=streams, of_run=False)


@app.get("/run", dependencies=[READS_INSTANCES])
def streams_of_run(request: Request, session: SessionDep, dag_id: str, run_id: str) -> HTMLResponse:
    streams = [Stream.of(found) for found in find_streams(session, KEYS, dag_id, run_id)]
    return _page(request, "list.html", streams=streams, of_run=True)


@app.get("/stream", dependencies=[READS_INSTANCES])
def one_stream(
    request: Request, user: GetUserDep, session: SessionDep, dag_id: str, run_id: str, task_id: str
) -> HTMLResponse:
    stream = _find(session, dag_id, run_id, task_id)
    if stream is None:
        return _page(request, "none.html", task_id=task_id)
    picture = None
    if request.headers.get("x-part") != "1":
        picture = draw(times_of_items(session, stream.found, stream.log, (BATCHES, f"{INDEX}0.")))
    return _page(
        request,
        "stream.html",
        stream=stream,
        failures=failed_items(session, stream.found, MOST_FAILURES) if stream.failed else [],
        picture=picture,
        may_change=may_change(user, dag_id),
    )


def _find(session: Session, dag_id: str, run_id: str, task_id: str) -> Stream | None:
    for found in find_streams(session, KEYS, dag_id, run_id):
        if task_id in (found.task_id, found.mapped_task_id, found.head[0]):
            return Stream.of(found)
    return None
