"""
Revise the map indexes of task ``echo`` as the scheduler does, with a commit between its two reads.

Run as ``python -m tests.e2e.forced_revision DAG_ID RUN_ID FOLDER FIRST_GATE ITEMS...`` in an Airflow's
environment; prints how many instances Airflow marked REMOVED. Opening the gates lets the source give
items, which the running triggerer commits while the revision waits. The scheduler goes on with other
runs before it commits, so this takes its time as well.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.timezone import utcnow
from airflow.serialization.definitions import mappedoperator
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import with_row_locks
from sqlalchemy import func, select

from deferred_expand.testing.local_airflow import wait_until
from tests.e2e.gates import Gates

#: Seconds from the revision to its commit.
OTHER_RUNS = 4.0


def main(dag_id: str, run_id: str, folder: str, first_gate: str, *items: str) -> None:
    of_task = (TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == "echo")
    gates = Gates(Path(folder), int(first_gate))
    read_length = mappedoperator.get_mapped_ti_count

    def committed_meanwhile(length: int) -> bool:
        with create_session(scoped=False) as other:
            count = other.scalar(select(func.count()).select_from(TaskInstance).where(*of_task))
        return (count or 0) >= length + sum(map(int, items))

    def read_and_wait(*args: Any, **kwargs: Any) -> int:
        length: int = read_length(*args, **kwargs)
        for number in items:
            gates.open(int(number))
        wait_until("it is committed between the two reads", lambda: committed_meanwhile(length), 30)
        return length

    mappedoperator.get_mapped_ti_count = read_and_wait  # type: ignore[assignment]
    with create_session(scoped=False) as session:
        query = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        run = session.scalars(with_row_locks(query, of=DagRun, session=session)).one()
        dag = DBDagBag().get_dag_for_run(dag_run=run, session=session)
        if dag is None:
            raise LookupError(dag_id)
        list(run._revise_map_indexes_if_mapped(dag.get_task("echo"), dag_version_id=None, session=session))
        removed = session.scalar(
            select(func.count()).select_from(TaskInstance).where(*of_task, TaskInstance.state == "removed")
        )
        time.sleep(OTHER_RUNS)
        run.last_scheduling_decision = utcnow()
    print(f"removed: {removed}")


if __name__ == "__main__":
    main(*sys.argv[1:])
