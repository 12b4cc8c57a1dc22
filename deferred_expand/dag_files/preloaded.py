"""
What every DAG file process needs, loaded once in the clean server that it is forked from.

The server is started by a trigger runner, where Airflow has taken the database's address away: without it
Airflow would not be imported (airflow/settings.py, ``initialize``), but for what it takes for a worker that
was executed anew.
"""

from __future__ import annotations

import os
from importlib import import_module

_AS_WORKER = "_AIRFLOW__REEXECUTED_PROCESS"

os.environ[_AS_WORKER] = "1"
try:
    for _module in (
        "airflow",
        "airflow.dag_processing.dagbag",
        "airflow.sdk.execution_time.task_runner",
        "deferred_expand.dag_files.process",
        "deferred_expand.operators.deferred_expand",
    ):
        import_module(_module)
finally:
    del os.environ[_AS_WORKER]  # not for what DAG files may start
