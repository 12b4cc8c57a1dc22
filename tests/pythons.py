"""The unit and property tests on every supported Python that there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def find(version: str) -> str | None:
    """The path of a Python of this machine; none is downloaded."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # Before pyenv's stand-ins on the PATH, which run only the version that is chosen at the time.
    path = os.pathsep.join([*map(str, pyenv.glob("versions/*/bin")), os.environ["PATH"]])
    uv = Path(sys.executable).with_name("uv")
    found = subprocess.run(
        [uv, "python", "find", "--no-project", "--system", version],
        env={**os.environ, "PATH": path, "UV_PYTHON_DOWNLOADS": "never"},
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() if found.returncode == 0 else None


def run(python: str, venv: str) -> tuple[int, int, bool]:
    """:return: how many tests passed and failed, and whether all is well."""
    make = subprocess.Popen(
        ["make", "--no-print-directory", "unit", f"PYTHON={python}", f"VENV={venv}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert make.stdout is not None
    last = ""
    for line in make.stdout:
        print(line, end="", flush=True)
        last = line if " in " in line else last
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|error)", last)}
    well = make.wait() == 0
    failed = counts.get("failed", 0) + counts.get("error", 0)
    return counts.get("passed", 0), failed or int(not well), well


def main(venv: str) -> int:
    found = {version: find(version) for version in VERSIONS}
    results = {version: run(python, f"{venv}-py{version}") for version, python in found.items() if python}
    told = [f"{version} {'passed' if well else 'FAILED'}" for version, (_, _, well) in results.items()]
    told += [f"{version} not found" for version, python in found.items() if not python]
    print("Python:", ", ".join(told))
    print(f"{sum(r[0] for r in results.values())} passed, {sum(r[1] for r in results.values())} failed")
    return 0 if results and all(well for _, _, well in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
