"""The pages: all open streams, those of a run, and one of them. They only read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deferred_expand.airflow_internals.overview import find_streams
from deferred_expand.airflow_internals.run_overview import iterating_instances, waiting_windows
from deferred_expand.airflow_internals.times import times_of_items
from deferred_expand.airflow_internals.web import (
    READS_INSTANCES,
    GetUserDep,
    SessionDep,
    may_change,
    may_write_xcoms,
    readable,
)
from deferred_expand.committing.store import BATCHES, CHILD_KEY, INDEX
from deferred_expand.overview.iterating import ITEM_KEYS, Iterating
from deferred_expand.overview.stream import KEYS, Stream, clock, in_line, limits_by_dag, moment
from deferred_expand.pages.chart import a_minute, draw
from deferred_expand.pages.links import links

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

HERE = Path(__file__).parent
MOST_LISTED = 50  # failed items, windows, instances that iterate
MOST_DRAWN = 4  # streams beside one, in its picture
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
_templates.filters.update({"number": "{:,}".format, "clock": clock, "moment": moment, "json": json.dumps})
_templates.globals.update(links=links, parts_of_control=limits_by_dag)


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
    return _page(request, "list.html", streams=in_line(streams), of_run=False)


@app.get("/run", dependencies=[READS_INSTANCES])
def streams_of_run(
    request: Request, user: GetUserDep, session: SessionDep, dag_id: str, run_id: str
) -> HTMLResponse:
    """With what follows a stream below it; what iterates, and what waits for windows, beside them."""
    streams = in_line([Stream.of(found) for found in find_streams(session, KEYS, dag_id, run_id)])
    instances = iterating_instances(session, dag_id, run_id, ITEM_KEYS, MOST_LISTED)
    return _page(
        request,
        "list.html",
        streams=streams,
        of_run=True,
        dag_id=dag_id,
        run_id=run_id,
        iterating=[Iterating.of(found) for found in instances],
        windows=waiting_windows(session, dag_id, run_id, CHILD_KEY, MOST_LISTED),
        may_change=may_change(user, dag_id),
    )


@app.get("/stream", dependencies=[READS_INSTANCES])
def one_stream(
    request: Request, user: GetUserDep, session: SessionDep, dag_id: str, run_id: str, task_id: str
) -> HTMLResponse:
    found = find_streams(session, KEYS, dag_id, run_id, failures_of=(task_id, MOST_LISTED))
    of_run = [Stream.of(one) for one in found]
    stream = next((one for one in of_run if one.found.is_called(task_id)), None)
    if stream is None:
        return _page(request, "none.html", task_id=task_id)
    follows, followed_by = stream.related(of_run)
    shown = {} if request.headers.get("x-part") == "1" else _drawn(session, stream, [*follows, *followed_by])
    return _page(
        request,
        "stream.html",
        stream=stream,
        follows=follows,
        followed_by=followed_by,
        failures=stream.found.failures,
        may_change=may_change(user, dag_id),
        may_write=may_write_xcoms(user, dag_id),
        **{"picture": None, "rates": (None, None), "others": [], **shown},
    )


def _drawn(session: Session, stream: Stream, related: list[Stream]) -> dict[str, Any]:
    """What is read when a page is opened, and now and then."""
    names = BATCHES, f"{INDEX}0."
    now = time.time()
    until = now if stream.finished < stream.items else None
    times = times_of_items(session, stream.found, stream.log, names, until)
    others = related[:MOST_DRAWN]
    beside = [times_of_items(session, one.found, one.log, names, finished=False) for one in others]
    rates = a_minute(times.committed, now), a_minute(times.finished, now)
    return {"picture": draw(times, beside), "rates": rates, "others": others}
