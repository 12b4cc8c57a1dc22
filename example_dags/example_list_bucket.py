"""An operator that a provider could ship: one task per object of a bucket."""

from __future__ import annotations

from airflow.sdk import DAG, Param, task
from bucket_provider import ListObjectsOperator

with DAG(
    "example_list_bucket",
    schedule=None,
    params={"bucket": Param("http://127.0.0.1:9000/bucket", type="string")},
    tags=["deferred_expand"],
):
    keys = ListObjectsOperator(task_id="keys", url="{{ params.bucket }}", prefix="incoming/", page_size=2)

    @task
    def load(key: str) -> str:
        return key

    load.expand(key=keys.output)
