"""Airflow's API, as the user who calls a command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx

from deferred_expand.airflow_internals.overview import api_address

if TYPE_CHECKING:
    from argparse import Namespace


NOT_FOUND = 404


def call_api(
    args: Namespace, method: str, path: str, what: str, *, expected: int | None = None, **how: Any
) -> int:
    """
    :param path: below ``/api/v2``.
    :param what: is asked for, for messages.
    :param expected: a status that is no refusal.
    :return: the status.
    :raises SystemExit: there is no token, or Airflow refuses.
    """
    token = args.api_token or os.environ.get("AIRFLOW_CLI_TOKEN")
    if not token:
        raise SystemExit(
            "Airflow's API asks who you are: set AIRFLOW_CLI_TOKEN, or give --api-token (a token comes from "
            "POST /auth/token)"
        )
    answer = httpx.request(
        method,
        f"{(args.api_url or api_address()).rstrip('/')}/api/v2/{path}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
        **how,
    )
    if answer.is_error and answer.status_code != expected:
        raise SystemExit(f"Airflow refused to {what} ({answer.status_code}): {answer.text}")
    return answer.status_code
