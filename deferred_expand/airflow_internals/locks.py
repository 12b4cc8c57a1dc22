"""What a transaction may wait for in the metadata database, and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow import settings
from sqlalchemy import func, select, text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

LONGEST_WAIT = 0.5  # seconds for a lock; a transaction that would wait longer fails
LONGEST_STANDSTILL = 10  # seconds between two statements of a transaction

_BUSY = frozenset({"55P03", "40P01", 1205, 1213, 3572})
"""What Postgres and MySQL call a lock that was not to be had in time, and a deadlock."""


def bound_waits(session: Session, longest: float = LONGEST_WAIT) -> None:
    """
    Let a transaction, with its first statement, neither wait nor make others wait for long.

    On SQLite, where one process at a time can write, it begins as the one.

    :param longest: seconds to wait for a lock; another call changes that, except on SQLite.
    """
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        # A process that stands still in here must not keep others from going on for it.
        limits = {"lock_timeout": longest, "idle_in_transaction_session_timeout": LONGEST_STANDSTILL}
        session.execute(select(*(func.set_config(k, f"{1000 * v:.0f}ms", True) for k, v in limits.items())))
        return
    if not connection.connection.is_detached:
        connection.detach()  # nobody else shall go on with these settings
    if connection.dialect.name == "sqlite":
        session.execute(text(f"PRAGMA busy_timeout = {1000 * longest:.0f}"))
        session.execute(text("BEGIN IMMEDIATE"))
    elif connection.dialect.name == "mysql":
        session.execute(text(f"SET SESSION innodb_lock_wait_timeout = {max(1, round(longest))}"))


def is_busy(error: Exception) -> bool:
    """Whether a transaction failed because others held what it needed."""
    cause = getattr(error, "orig", None)
    codes = {
        getattr(cause, "sqlstate", None),
        getattr(cause, "pgcode", None),
        *getattr(cause, "args", ())[:1],
    }
    return not codes.isdisjoint(_BUSY) or "database is locked" in codes


def locks_rows() -> bool:
    """Whether the lock of one row keeps others from that row only; on SQLite it is the whole database's."""
    return has_row_locks() and settings.get_engine().dialect.name != "sqlite"


def has_row_locks() -> bool:
    """
    Whether rows of the metadata database can be locked as :class:`StreamRecords` does.

    MariaDB knows no ``FOR UPDATE OF``, and Airflow takes no row locks there
    (airflow/utils/sqlalchemy.py, ``with_row_locks``). SQLite needs none.
    """
    return not getattr(settings.get_engine().dialect, "is_mariadb", False)
