"""``SQLExecuteQueryOperator`` as a source on Postgres, which SQLite cannot stand in for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.e2e.runs import Run

if TYPE_CHECKING:
    from tests.e2e.cluster import Cluster

EXPECTED: dict[str, Any] = {
    "like": [["ada", 1815], ["alan", 1912]],
    "parameters": [["alan", 1912]],
    "template_file": [["grace", 1906]],
    "handler": ["ada"],
    "output_processor": [["ADA"], ["ALAN"], ["GRACE"]],
    "statements": [[3]],
}


def make_people(cluster: Cluster) -> None:
    cluster.server.psql("create database people")
    with psycopg.connect(cluster.server.get_uri("people")) as connection:
        connection.execute("create table people (name text, born integer)")
        for row in (("grace", 1906), ("ada", 1815), ("alan", 1912)):
            connection.execute("insert into people values (%s, %s)", row)
    fields = {"conn_type": "postgres", "host": str(cluster.server.pgdata), "login": "postgres"}
    cluster.api("POST", "/connections", json={"connection_id": "people", "schema": "people", **fields})


@pytest.mark.long
def test_each_query_gives_what_the_operator_gives_natively(cluster: Cluster) -> None:
    make_people(cluster)
    cluster.wait_for_dag("queries")
    run = Run(cluster, "queries", cluster.trigger("queries", {}))
    assert run.wait() == "success"
    got = {name: run.result(f"compare_{name}") for name in EXPECTED}
    assert {name: both["streamed"] for name, both in got.items()} == EXPECTED
    assert {name: both["native"] for name, both in got.items()} == EXPECTED
