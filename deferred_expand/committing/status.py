"""How a stream is doing, for those that follow it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deferred_expand.airflow_internals.comms import ENDED_STATES, task_instance_state

if TYPE_CHECKING:
    from deferred_expand.committing.store import StreamStore
    from deferred_expand.streams.commit_log import CommitLog


FIRST_LOOK = 0.5  # seconds between the first two looks at a stream that is followed

# States of the unmapped task, all of which it reaches by starting. Upstream tasks can skip it, too.
_HAS_OPENED = frozenset({"deferred", "success", "failed"})


@dataclass(frozen=True)
class StreamStatus:
    """
    :param log: ``None``: the stream is not open.
    :param walker: state of the instance that waits while it is walked.
    """

    log: CommitLog | None
    walker: str | None

    @classmethod
    def read(cls, store: StreamStore) -> StreamStatus:
        """
        Look at the states first, and then at the log, which has all that was committed by then.

        The log counts once the unmapped task has opened the stream. Before that it is an earlier
        run's: Airflow deletes a cleared task's XComs when that starts again, and not sooner
        (airflow/api_fastapi/execution_api/routes/task_instances.py, ``xcom_keys_to_clear``).
        """
        ref = store.ref
        opener = task_instance_state(ref.dag_id, ref.run_id, ref.task_id, -1)
        if opener not in _HAS_OPENED:
            return cls(None, opener)
        walker = task_instance_state(ref.dag_id, ref.run_id, *ref.walker)
        if walker is None and ref.head_task_id is None:
            # A mapped task that was never expanded has one instance, with index -1.
            walker = task_instance_state(ref.dag_id, ref.run_id, ref.instances_of, -1)
        return cls(store.read_log(), walker)

    @property
    def is_over(self) -> bool:
        """Nothing more will be committed."""
        return (self.log is not None and self.log.ended) or self.walker in ENDED_STATES
