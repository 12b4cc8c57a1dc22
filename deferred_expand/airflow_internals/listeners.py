"""How a plugin takes part in the life of Airflow's components."""

from __future__ import annotations

from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


def triggerer_id(job: Any) -> int | None:
    """
    Id of a triggerer's job; ``None``: it is another component's, or not yet known whose.

    ``on_starting`` comes from within ``Job.__init__`` (airflow/jobs/job.py), before it is known
    what kind of job it is. Not through the attributes: an expired one would be read from the
    database, here.
    """
    known = vars(job)
    return known.get("id") if known.get("job_type") == "TriggererJob" else None
