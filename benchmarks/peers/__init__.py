"""The same work done by others, installed apart from this project's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PATIENCE = 180.0  # seconds, after which one is said not to have come to an end
#: Scripts of this folder, by name and what they need.
PEERS = {"Prefect": ("prefect_flow.py", "prefect>=3.9,<4"), "Dagster": ("dagster_job.py", "dagster>=1.13,<2")}


def run(nothing: int, pages: dict[str, Any]) -> dict[str, Any]:
    """
    Each peer, in an environment and a home of its own that are gone afterwards.

    :param nothing: a number of items that do nothing.
    :param pages: how many, how many items each, and the seconds that both take.
    :return: seconds of both cases, by peer; without those that took longer than :data:`PATIENCE`.
    """
    found: dict[str, Any] = {}
    for name, (script, needs) in PEERS.items():
        with tempfile.TemporaryDirectory() as folder:
            uv = Path(sys.executable).with_name("uv")
            python = Path(folder, "venv/bin/python")
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, python.parents[1]], check=True)
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, needs], check=True)
            command = [python, Path(__file__).with_name(script)]
            found[name] = {
                "nothing": _ask(folder, [*command, "nothing", json.dumps({"count": nothing})]),
                "pages": _ask(folder, [*command, "pages", json.dumps(pages)]),
            }
    return found


def _ask(folder: str, command: list[Any]) -> dict[str, float]:
    home = {"PREFECT_HOME": f"{folder}/prefect", "DAGSTER_HOME": f"{folder}/dagster", "DO_NOT_TRACK": "1"}
    Path(folder, "dagster").mkdir(exist_ok=True)
    try:
        told = subprocess.run(
            command,
            env={**os.environ, **home, "PYTHONPATH": ""},
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE,
        ).stdout
    except subprocess.TimeoutExpired:
        return {}
    return dict(json.loads(told.splitlines()[-1]))
