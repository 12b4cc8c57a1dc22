"""A stream whose items write down that they were here, a DAG for each committer."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from deferred_expand import DeferredExpandOperator
from tests.chaos.operators import WriteDownOperator
from tests.e2e.sources import gated

for committer in ("triggerer", "callback"):
    with DAG(f"chaotic_{committer}", schedule=None, params={"gates": Param(""), "book": Param("")}):
        stream = DeferredExpandOperator(
            task_id="stream",
            source=gated,
            source_kwargs={"gates": "{{ params.gates }}"},
            batch_interval=0.5,
            materialize=committer,
            retries=10,
            retry_delay=timedelta(seconds=1),
        )
        WriteDownOperator.partial(
            task_id="item", book="{{ params.book }}", retries=10, retry_delay=timedelta(seconds=1)
        ).expand(number=stream.output)
