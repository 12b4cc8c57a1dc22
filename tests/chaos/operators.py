"""What runs for each item."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
from airflow.sdk import BaseOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where the items write: beside Airflow's database, on the same server.
BOOK = """
    create table written (
        run_id text, number integer, map_index integer, try integer,
        at timestamptz default clock_timestamp()
    )
"""


class WriteDownOperator(BaseOperator):
    """
    Writes down its number, its map index and its try.

    :param book: the address of the database with the table ``written``.
    """

    template_fields: Sequence[str] = ("book",)

    def __init__(self, *, number: int, book: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number
        self.book = book

    def execute(self, context: Any) -> None:
        ti = context["ti"]
        row = (context["run_id"], self.number, ti.map_index, ti.try_number)
        with psycopg.connect(self.book) as connection:
            connection.execute("insert into written values (%s, %s, %s, %s)", row)
        time.sleep(1)  # something to be interrupted
