"""Results of items, on their way from the instances that ran them to whoever reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.execution_time.comms import GetXCom

from deferred_expand.iterating.spool import Row
from deferred_expand.workers import item_results
from deferred_expand.workers.item_results import IteratedResults, publish
from tests.memory_airflow import DAG_ID, RUN_ID, MemoryAirflow

WHERE: dict[str, Any] = {"dag_id": DAG_ID, "run_id": RUN_ID, "task_id": "items"}


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> MemoryAirflow:
    memory = MemoryAirflow()
    memory.install(monkeypatch)
    monkeypatch.setattr(item_results, "RESULTS_PER_XCOM", 3)
    return memory


def rows(*indexes: int, pushes: bool = False) -> list[Row]:
    beside = {"xcoms": {"key": '"pushed"'}} if pushes else None
    return [Row(index, "d", "done", json.dumps(10 * index), beside) for index in indexes]


def test_of_instances_that_deal_in_turn_they_come_in_the_order_of_the_items(airflow: MemoryAirflow) -> None:
    for map_index in range(3):
        publish(rows(*range(map_index, 20, 3)), {**WHERE, "map_index": map_index})
    results = IteratedResults(WHERE, range(3), in_turn=True)
    expected = [10 * index for index in range(20)]
    assert list(results) == list(results) == expected
    assert len(results) == 20
    assert [results[place] for place in range(20)] == expected
    assert results[-1] == 190
    assert results[3:9:2] == expected[3:9:2]
    with pytest.raises(IndexError):
        results[20]


def test_of_batches_those_of_the_first_come_first(airflow: MemoryAirflow) -> None:
    publish(rows(0, 2), {**WHERE, "map_index": 1})
    publish(rows(), {**WHERE, "map_index": 2})
    publish(rows(0, 1, 2, 3, 4), {**WHERE, "map_index": 3})
    results = IteratedResults(WHERE, range(1, 4), in_turn=False)
    assert list(results) == [results[place] for place in range(7)] == [0, 20, 0, 10, 20, 30, 40]
    assert not IteratedResults(WHERE, [2], in_turn=False)


def test_what_items_pushed_is_read_by_its_key(airflow: MemoryAirflow) -> None:
    publish([*rows(0), *rows(1, 2, pushes=True), Row(3, "d", "done", None)], {**WHERE, "map_index": 0})
    assert list(IteratedResults(WHERE, range(1), in_turn=True)) == [0, 10, 20]
    assert list(IteratedResults(WHERE, range(1), in_turn=True, key="key")) == ["pushed", "pushed"]
    assert list(IteratedResults(WHERE, range(1), in_turn=True, key="none")) == []


def test_no_more_is_read_than_is_asked_for(airflow: MemoryAirflow) -> None:
    publish(rows(*range(30)), {**WHERE, "map_index": 0})
    results = IteratedResults(WHERE, range(1), in_turn=True)
    airflow.requests.clear()
    assert results[25] == 250
    assert airflow.requests[GetXCom] == 2, "how many there are, and a chunk"
    iterator = iter(results)
    assert [next(iterator), next(iterator)] == [0, 10]
    assert airflow.requests[GetXCom] == 3


def test_chunks_end_also_when_they_get_large(airflow: MemoryAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_results, "RESULTS_PER_XCOM", 500)
    monkeypatch.setattr(item_results, "BYTES_PER_XCOM", 100)
    publish([Row(index, "d", "done", json.dumps("x" * 60)) for index in range(6)], {**WHERE, "map_index": 0})
    assert list(IteratedResults(WHERE, range(1), in_turn=True)) == ["x" * 60] * 6
    assert airflow.tables.xcoms[("items", 0, "deferred_expand.results.return_value")]
