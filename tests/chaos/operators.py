"""What runs for each item."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, get_current_context

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where the items write: beside Airflow's database, on the same server.
BOOK = """
    create table written (
        run_id text, number integer, map_index integer, try integer, task_id text,
        at timestamptz default clock_timestamp()
    )
"""


class WriteDownOperator(BaseOperator):
    """
    Writes down its number, its map index and its try.

    :param book: the address of the database with the table ``written``.
    """

    template_fields: Sequence[str] = ("book", "number")

    def __init__(self, *, number: int, book: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number
        self.book = book

    def execute(self, context: Any) -> None:
        ti = context["ti"]
        row = (context["run_id"], self.number, ti.map_index, ti.try_number, ti.task_id)
        with psycopg.connect(self.book) as connection:
            connection.execute("insert into written values (%s, %s, %s, %s, %s)", row)
        time.sleep(1)  # something to be interrupted


#: Where the items of one task instance write when they begin and end.
ITEMS_BOOK = """
    create table if not exists items (
        run_id text, number integer, try integer, what text, at timestamptz default clock_timestamp()
    )
"""
_INSERT = "insert into items (run_id, number, try, what) values (%s, %s, %s, %s)"


def write_item(number: int, what: str) -> None:
    context = get_current_context()
    row = (context["run_id"], number, context["ti"].try_number, what)
    with psycopg.connect(context["params"]["book"]) as connection:
        connection.execute(_INSERT, row)


async def write_item_async(number: int, what: str) -> None:
    context = get_current_context()
    row = (context["run_id"], number, context["ti"].try_number, what)
    async with await psycopg.AsyncConnection.connect(context["params"]["book"]) as connection:
        await connection.execute(_INSERT, row)


class TwoHopsOperator(BaseOperator):
    """
    Waits twice in a trigger, and writes down when it begins and ends.

    :param seconds: both waits together.
    """

    template_fields: Sequence[str] = ("seconds",)

    def __init__(self, *, number: int, seconds: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number, self.seconds = number, seconds

    def execute(self, context: Any) -> None:
        write_item(self.number, "begin")
        self._wait("again")

    def again(self, context: Any, event: Any) -> None:
        self._wait("end")

    def end(self, context: Any, event: Any) -> int:
        write_item(self.number, "end")
        return self.number * 10

    def _wait(self, method: str) -> None:
        moment = datetime.now(tz=timezone.utc) + timedelta(seconds=float(self.seconds) / 2)
        self.defer(trigger=DateTimeTrigger(moment), method_name=method)
