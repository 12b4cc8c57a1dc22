"""The options of the ``[deferred_expand]`` section; loaded before Airflow's configuration is."""

from __future__ import annotations

from typing import Any

SECTION = "deferred_expand"

OPTIONS: dict[str, dict[str, Any]] = {
    "requeue_delay": {
        "description": (
            "Seconds between a worker's exit and the moment its stream head may be queued again: from "
            "a commit on a worker to the creation of the batch's task instances, and from the start of "
            "a trigger to its event. Until the executor has reported that exit, the scheduler would "
            "take the report for the end of the next run and fail the stream head. A worker's exit is "
            "noticed up to [workers] min_heartbeat_interval late, so one second more than that is the "
            "least, also if less is set here. 30 is wise where task logs are uploaded to a slow remote "
            "store."
        ),
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "10.0",
    },
    "max_batch_bytes": {
        "description": (
            "A batch is closed before it would be more bytes than this in the XCom that it is stored as; "
            "a single item that is larger fails the stream. Batches are XComs: a large value wants "
            "an object storage XCom backend."
        ),
        "version_added": "0.1.0",
        "type": "integer",
        "example": None,
        "default": "4194304",
    },
    "expander": {
        "description": (
            "Whether triggerers commit batches and create task instances themselves, in a thread "
            "beside the trigger runner that uses the metadata database. Without it a worker does, "
            "which is slower."
        ),
        "version_added": "0.1.0",
        "type": "boolean",
        "example": None,
        "default": "True",
    },
    "load_dags": {
        "description": (
            "Whether triggerers load DAG files, in processes of their own, for sources and functions that "
            "only a DAG file has (@task.stream, a lambda in .filter()). Code of DAG authors runs in "
            "triggerers then. False: sources must be importable, which is checked when a DAG is parsed; so "
            "set it for DAG processors, workers and triggerers alike."
        ),
        "version_added": "0.1.0",
        "type": "boolean",
        "example": None,
        "default": "True",
    },
    "dag_file_processes": {
        "description": (
            "Processes in which a triggerer loads DAG files, at most: there is one for each DAG bundle (in "
            "each version that an open stream needs). A stream for which there is no place waits."
        ),
        "version_added": "0.1.0",
        "type": "integer",
        "example": None,
        "default": "16",
    },
    "dag_file_memory": {
        "description": (
            "Megabytes of data that each of these processes may have; what asks for more fails with a "
            "MemoryError. 0: no limit."
        ),
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "2048",
    },
    "walk_ahead": {
        "description": (
            "Items that a stream's source may be ahead of its task instances: read and staged, but "
            "not yet committed. Walking pauses there."
        ),
        "version_added": "0.1.0",
        "type": "integer",
        "example": None,
        "default": "1000",
    },
    "walk_ahead_bytes": {
        "description": "The same in bytes: the size of what is staged, but not yet committed.",
        "version_added": "0.1.0",
        "type": "integer",
        "example": None,
        "default": "33554432",
    },
    "read_timeout": {
        "description": "Seconds that a task which reads an open stream waits for one more item.",
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "3600",
    },
    "idle_timeout": {
        "description": (
            "Seconds after which a walk that no trigger has asked for closes its source. The next "
            "trigger opens it again from the last commit."
        ),
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "120.0",
    },
}
