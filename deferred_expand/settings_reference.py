"""The options of the ``[deferred_expand]`` section; loaded before Airflow's configuration is."""

from __future__ import annotations

from typing import Any

SECTION = "deferred_expand"

OPTIONS: dict[str, dict[str, Any]] = {
    "requeue_delay": {
        "description": (
            "Seconds between the moment a stream head has committed a batch on a worker and the "
            "moment the scheduler queues it again, which is also when the batch's task instances "
            "are created. It must be longer than a worker needs to exit and the executor to report "
            "it: otherwise the scheduler takes the report for the next run's and fails the stream "
            "head. 30 is wise where task logs are uploaded to a slow remote store."
        ),
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "10.0",
    },
    "resume_delay": {
        "description": (
            "Seconds that a stream's trigger waits from its start before it sends its stream head "
            "to a worker, for the same reason. Airflow itself tells most of these reports apart, "
            "so it may be shorter."
        ),
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "3.0",
    },
    "max_batch_bytes": {
        "description": (
            "A batch is closed before its items, written as JSON, would be more bytes than this; "
            "a single item that is larger fails the stream. Batches are XComs: a large value wants "
            "an object storage XCom backend."
        ),
        "version_added": "0.1.0",
        "type": "integer",
        "example": None,
        "default": "4194304",
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
