"""
What runs after some items: instead of a trigger rule, which counts the stream head, a task that looks.

``one_success``, ``all_failed``, ``all_skipped`` and the like take the stream head (map index 0) for an item.
A task with ``all_done`` that is skipped unless the items are as wanted means the items alone.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from deferred_expand import DeferredExpandOperator


def item_states(task_id: str) -> list[str | None]:
    """Of the instances of a task that is mapped over a stream, without the stream head."""
    ti: Any = get_current_context()["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[task_id])
    return [state for name, state in states[ti.run_id].items() if name != f"{task_id}_0"]


with DAG("example_item_states", schedule=None, tags=["deferred_expand"]):
    orders = DeferredExpandOperator(
        task_id="orders", source="shop_api:todays_orders", source_kwargs={"count": 4}
    )

    @task
    def load(order: dict[str, Any]) -> int:
        if order["amount"] < 50:
            raise AirflowSkipException("a small one")
        return int(order["amount"])

    @task(trigger_rule="all_done")
    def one_is_loaded() -> None:  # instead of one_success
        if "success" not in item_states("load"):
            raise AirflowSkipException("no order was loaded")

    @task(trigger_rule="all_done")
    def all_are_small() -> None:  # instead of all_skipped
        if set(item_states("load")) - {"skipped"}:
            raise AirflowSkipException("some were loaded")

    @task
    def report() -> None:
        """Runs."""

    @task
    def advertise() -> None:
        """Is skipped."""

    loaded = load.expand(order=orders.output)
    loaded >> one_is_loaded() >> report()
    loaded >> all_are_small() >> advertise()
