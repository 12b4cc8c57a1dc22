"""
A browser for the tests of pages: one that is there, or Chromium from npm, unpacked without root and kept.

``@sparticuz/chromium`` has a headless Chromium with all the libraries that it needs, in archives of Brotli.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import brotli
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "@sparticuz/chromium@153.0.0"
NAMES = ("chromium", "chromium-browser", "google-chrome")
KEPT = Path(sys.prefix) / "chromium"  # beside what else the project has installed for itself
ARGUMENTS = ("--no-sandbox", "--disable-gpu")


class NoBrowser(Exception):
    """There is none, and none is to be had."""


@dataclass(frozen=True)
class Chromium:
    """:param libraries: that are not the system's."""

    path: str
    libraries: dict[str, str] = field(default_factory=dict)


def find_chromium() -> Chromium:
    """:raises NoBrowser: it says why."""
    known = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]
    for path in known:
        if path:
            return Chromium(path)
    if not (KEPT / "chromium").exists():
        _unpack()
    return Chromium(str(KEPT / "chromium"), {"LD_LIBRARY_PATH": str(KEPT / "lib")})


def _unpack() -> None:
    if shutil.which("npm") is None:
        raise NoBrowser("there is no Chromium, and no npm to get one")
    with TemporaryDirectory() as folder:
        packing = ["npm", "pack", PACKAGE, "--silent"]
        packed = subprocess.run(packing, cwd=folder, capture_output=True, text=True)
        if packed.returncode:
            raise NoBrowser(f"npm has no {PACKAGE}: {packed.stderr.strip()}")
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(Path(folder) / packed.stdout.split()[-1]) as package:
            for member in package.getmembers():
                archive = package.extractfile(member) if member.name.endswith(".br") else None
                if archive is not None:
                    _unpack_archive(Path(member.name).stem, brotli.decompress(archive.read()), unpacked)
        shutil.rmtree(KEPT, ignore_errors=True)
        shutil.move(unpacked, KEPT)


def _unpack_archive(name: str, content: bytes, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
    else:
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)


@contextmanager
def browser() -> Iterator[Any]:
    """:raises NoBrowser: it says why."""
    found = find_chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=found.path, args=list(ARGUMENTS), env={**os.environ, **found.libraries}
        )
        try:
            yield running
        finally:
            running.close()
