"""What ``airflow items`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.overview import providers_configuration_loaded
from deferred_expand.cli.api import call_api
from deferred_expand.iterating.ledger import FORGET_KEY

if TYPE_CHECKING:
    from argparse import Namespace


@providers_configuration_loaded
def forget_items(args: Namespace) -> None:
    """
    Leave a word for the next try of an instance, as its user could in the web UI (Task State Store).

    :raises SystemExit: no items are named, or Airflow refuses.
    """
    if bool(args.items) == args.failed:
        raise SystemExit("Say which items to forget: their indexes, or --failed")
    path = f"dags/{args.dag_id}/dagRuns/{args.run_id}/taskInstances/{args.task_id}/state-store/{FORGET_KEY}"
    value = "failed" if args.failed else args.items
    call_api(
        args,
        "PUT",
        path,
        f"forget items of {args.task_id!r}",
        params={"map_index": args.map_index},
        json={"value": value},
    )
    told = "those that failed" if args.failed else f"{len(args.items)} item(s), and those that failed"
    print(f"{told} run again when {args.task_id} with map index {args.map_index} is cleared")
