"""The commands and their arguments. Airflow imports this with every command of its own, so it is light."""

from __future__ import annotations

from deferred_expand.airflow_internals.cli import (
    ARG_DAG_ID,
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    GroupCommand,
    lazy_load_command,
)

_RUN = Arg(("run_id",), help="The id of the dag run")
_TASK = Arg(("task_id",), nargs="?", help="The id of the task with the stream, or of the task over it")
_FOLLOW = Arg(("-f", "--follow"), help="Show a bar until the stream has ended", action="store_true")
_ITERATED = Arg(("task_id",), help="The id of the task")
_ITEMS = Arg(("items",), nargs="*", type=int, help="Indexes of items")
_FAILED = Arg(
    ("--failed",), help="Only those that failed, also after a tolerated success", action="store_true"
)
_MAP_INDEX = Arg(("--map-index",), type=int, default=0, help="Of the instance (default: 0)")
_INSTANCE = (ARG_DAG_ID, _RUN, _ITERATED, _MAP_INDEX)
_FAIL = Arg(("--fail",), help="Mark the stream failed, and not ended", action="store_true")
_URL = Arg(("--api-url",), help="Where Airflow's API is (default: [api] base_url)")
_TOKEN = Arg(("--api-token",), help="Your token for Airflow's API (default: $AIRFLOW_CLI_TOKEN)")
_OF_STREAM = (ARG_DAG_ID, _RUN, _TASK, _URL, _TOKEN, ARG_VERBOSE)
_MAX_PENDING = Arg(("--max-pending",), help="Items, batches or windows that are not finished at most")
_RATE_LIMIT = Arg(("--rate-limit",), help="Items per second")
_TOLERATE = Arg(("--tolerate",), help="Instances that may fail before the stream ends, or a share like 5%%")

_STREAM_COMMANDS = (
    ActionCommand(
        name="list",
        help="List the open streams",
        func=lazy_load_command("deferred_expand.cli.commands.list_streams"),
        args=(ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="show",
        help="Show the streams of a run",
        func=lazy_load_command("deferred_expand.cli.commands.show_streams"),
        args=(ARG_DAG_ID, _RUN, _TASK, _FOLLOW, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="stop",
        help="End an open stream: what is committed stays, and what is downstream runs",
        func=lazy_load_command("deferred_expand.cli.commands.stop_stream"),
        args=(ARG_DAG_ID, _RUN, _TASK, _FAIL, _URL, _TOKEN, ARG_VERBOSE),
    ),
    ActionCommand(
        name="pause",
        help="Ask the source of an open stream for no more until it is resumed",
        func=lazy_load_command("deferred_expand.cli.commands.pause_stream"),
        args=_OF_STREAM,
    ),
    ActionCommand(
        name="resume",
        help="Let a paused stream go on",
        func=lazy_load_command("deferred_expand.cli.commands.resume_stream"),
        args=_OF_STREAM,
    ),
    ActionCommand(
        name="set",
        help="Change limits of an open stream; 'dag': as the DAG says",
        func=lazy_load_command("deferred_expand.cli.commands.set_limits"),
        args=(*_OF_STREAM, _MAX_PENDING, _RATE_LIMIT, _TOLERATE),
    ),
)
_ITEM_COMMANDS = (
    ActionCommand(
        name="forget",
        help="Have the next clear of an instance run these items, and those that failed, again",
        func=lazy_load_command("deferred_expand.cli.items.forget_items"),
        args=(
            ARG_DAG_ID,
            _RUN,
            _ITERATED,
            _ITEMS,
            _FAILED,
            _MAP_INDEX,
            _URL,
            _TOKEN,
            ARG_VERBOSE,
        ),
    ),
)


def get_commands() -> list[GroupCommand]:
    """What Airflow's provider manager asks for (key ``cli``)."""
    return [
        GroupCommand(
            name="streams",
            help="Look at streams that tasks are expanded over, change and end them",
            subcommands=_STREAM_COMMANDS,
        ),
        GroupCommand(
            name="items",
            help="Items of tasks that iterate() runs many of in one instance",
            subcommands=_ITEM_COMMANDS,
        ),
    ]
