"""What ``airflow streams`` does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deferred_expand.airflow_internals.overview import (
    AirflowConsole,
    create_session,
    find_streams,
    providers_configuration_loaded,
    suppress_logs_and_warning,
)
from deferred_expand.cli.api import NOT_FOUND, call_api
from deferred_expand.committing.store import CONTROL_KEY
from deferred_expand.overview.stream import KEYS, Stream

if TYPE_CHECKING:
    from argparse import Namespace

LOOK = 1.0  # seconds between two looks at a stream that is followed


def _streams(
    dag_id: str | None = None, run_id: str | None = None, task_id: str | None = None
) -> list[Stream]:
    with create_session() as session:
        found = [Stream.of(stream) for stream in find_streams(session, KEYS, dag_id, run_id)]
    return [stream for stream in found if task_id in (None, stream.task_id, stream.mapped_task_id)]


@suppress_logs_and_warning
@providers_configuration_loaded
def list_streams(args: Namespace) -> None:
    """Every stream that is open in a running DAG run."""
    AirflowConsole().print_as([stream.row() for stream in _streams() if stream.is_open], args.output)


@suppress_logs_and_warning
@providers_configuration_loaded
def show_streams(args: Namespace) -> None:
    """
    The streams of one run, also those that have ended.

    :raises SystemExit: there is none.
    """
    found = _of_run(args)
    if args.follow:
        found = _follow(args)
    AirflowConsole().print_as([stream.details() for stream in found], args.output)


def _of_run(args: Namespace) -> list[Stream]:
    found = _streams(args.dag_id, args.run_id, args.task_id)
    if not found:
        task = f", task {args.task_id!r}" if args.task_id else ""
        raise SystemExit(f"There is no stream in run {args.run_id!r} of DAG {args.dag_id!r}{task}")
    return found


def _follow(args: Namespace) -> list[Stream]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        bars: dict[str, Any] = {}
        while True:
            found = _of_run(args)
            for stream in found:
                if stream.task_id not in bars:
                    bars[stream.task_id] = progress.add_task(stream.task_id, told="")
                progress.update(
                    bars[stream.task_id], total=stream.items, completed=stream.finished, told=stream.told
                )
            if not any(stream.is_open for stream in found):
                return found
            time.sleep(LOOK)


def _open_one(args: Namespace, what: str) -> Stream:
    """:raises SystemExit: it is not one open stream that is meant."""
    found = [stream for stream in _of_run(args) if stream.is_open]
    if len(found) != 1:
        names = ", ".join(repr(stream.task_id) for stream in found) or "none"
        raise SystemExit(f"Say which stream to {what}; open in run {args.run_id!r}: {names}")
    return found[0]


@providers_configuration_loaded
def stop_stream(args: Namespace) -> None:
    """
    Mark a stream head success or failed, as its user would in the web UI.

    :raises SystemExit: it is not one open stream that is meant, or Airflow refuses.
    """
    stream = _open_one(args, "stop")
    state, (task_id, map_index) = "failed" if args.fail else "success", stream.head
    path = f"{_api_path(stream, task_id)}/{map_index}"
    call_api(args, "PATCH", path, f"mark {task_id!r} {state}", json={"new_state": state})
    print(f"{task_id} with map index {map_index} is marked {state}; {stream.items} item(s) stay as they are")


@providers_configuration_loaded
def pause_stream(args: Namespace) -> None:
    """:raises SystemExit: as :func:`set_limits` does."""
    _change(args, "pause", {"paused": True})


@providers_configuration_loaded
def resume_stream(args: Namespace) -> None:
    """:raises SystemExit: as :func:`set_limits` does."""
    _change(args, "resume", {"paused": False})


@providers_configuration_loaded
def set_limits(args: Namespace) -> None:
    """
    Write what a stream's walk shall obey from now on, as its user would in the web UI.

    :raises SystemExit: it is not one open stream that is meant, it cannot be obeyed, or Airflow refuses.
    """
    given = {name: getattr(args, name) for name in ("max_pending", "rate_limit", "tolerate")}
    changes = {name: _value(text) for name, text in given.items() if text is not None}
    if not changes:
        raise SystemExit("Say what to set: --max-pending, --rate-limit or --tolerate")
    _change(args, "change", changes)


def _value(text: str) -> Any:
    """``None``: as the DAG says."""
    if text == "dag":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _change(args: Namespace, what: str, changes: dict[str, Any]) -> None:
    stream = _open_one(args, what)
    if not stream.can_be_changed:
        raise SystemExit(f"The stream of {stream.task_id!r} is walked on workers: stop it, or let it go on")
    value = {name: one for name, one in {**stream.changes, **changes}.items() if one is not None}
    try:
        control = stream.changed_by(value)
    except ValueError as error:
        raise SystemExit(f"That cannot be obeyed: {error}") from error
    asked, path = (
        f"{what} the stream of {stream.task_id!r}",
        f"{_api_path(stream, stream.task_id)}/xcomEntries",
    )
    body = {"value": value, "map_index": -1}
    status = call_api(args, "PATCH", f"{path}/{CONTROL_KEY}", asked, expected=NOT_FOUND, json=body)
    if status == NOT_FOUND:
        call_api(args, "POST", path, asked, json={"key": CONTROL_KEY, **body})
    print(f"{stream.task_id}: {control.describe()}")


def _api_path(stream: Stream, task_id: str) -> str:
    quoted = [quote(part, safe="") for part in (stream.dag_id, stream.run_id, task_id)]
    return "dags/{}/dagRuns/{}/taskInstances/{}".format(*quoted)
