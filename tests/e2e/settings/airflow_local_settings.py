"""A cluster policy of the end-to-end tests."""

from __future__ import annotations

from typing import Any


def task_instance_mutation_hook(task_instance: Any, dag_run: Any = None) -> None:
    if task_instance.dag_id == "compared" and task_instance.map_index > 0:
        task_instance.pool = "slotless"  # what is made stays as it was made
        task_instance.pool_slots = 1 + task_instance.map_index
