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
_FAIL = Arg(("--fail",), help="Mark the stream failed, and not ended", action="store_true")
_URL = Arg(("--api-url",), help="Where Airflow's API is (default: [api] base_url)")
_TOKEN = Arg(("--api-token",), help="Your token for Airflow's API (default: $AIRFLOW_CLI_TOKEN)")


def get_commands() -> list[GroupCommand]:
    """What Airflow's provider manager asks for (key ``cli``)."""
    return [
        GroupCommand(
            name="streams",
            help="Look at streams that tasks are expanded over, and end them",
            subcommands=(
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
            ),
        )
    ]
