"""
Revise the map indexes of task ``echo`` as the scheduler does, with a commit between its two reads.

Run as ``python -m tests.e2e.forced_revision DAG_ID RUN_ID GATE ITEMS`` in an Airflow's environment;
prints how many instances Airflow marked REMOVED. Opening the gate lets the source give items, which
the running triggerer commits while the revision waits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.serialization.definitions import mappedoperator
from airflow.utils.session import create_session
from sqlalchemy import func, select


def main(dag_id: str, run_id: str, gate: str, items: str) -> None:
    of_task = (TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == "echo")
    read_length = mappedoperator.get_mapped_ti_count

    def committed_meanwhile(length: int) -> bool:
        with create_session(scoped=False) as other:
            count = other.scalar(select(func.count()).select_from(TaskInstance).where(*of_task))
        return (count or 0) >= length + int(items)

    def read_and_wait(*args: Any, **kwargs: Any) -> int:
        length: int = read_length(*args, **kwargs)
        Path(gate).write_text(items)
        deadline = time.monotonic() + 30
        while not committed_meanwhile(length):
            if time.monotonic() > deadline:
                raise TimeoutError("nothing was committed between the two reads")
            time.sleep(0.05)
        return length

    mappedoperator.get_mapped_ti_count = read_and_wait  # type: ignore[assignment]
    with create_session(scoped=False) as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None:
            raise LookupError(run_id)
        dag = DBDagBag().get_dag_for_run(dag_run=run, session=session)
        if dag is None:
            raise LookupError(dag_id)
        list(run._revise_map_indexes_if_mapped(dag.get_task("echo"), dag_version_id=None, session=session))
        removed = session.scalar(
            select(func.count()).select_from(TaskInstance).where(*of_task, TaskInstance.state == "removed")
        )
    print(f"removed: {removed}")


if __name__ == "__main__":
    main(*sys.argv[1:])
