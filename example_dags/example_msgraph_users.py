"""``MSGraphAsyncOperator`` streamed: a task per user of a tenant."""

from __future__ import annotations

from typing import Any

from airflow.providers.microsoft.azure.operators.msgraph import MSGraphAsyncOperator
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator

with DAG("example_msgraph_users", schedule=None, tags=["deferred_expand"]):
    users = DeferredExpandOperator(
        task_id="users",
        source=MSGraphAsyncOperator,
        source_kwargs={
            "conn_id": "msgraph",
            "url": "users",
            "query_parameters": {"$select": "id,displayName"},
            "headers": {"ConsistencyLevel": "eventual"},
        },
    )

    @task(map_index_template="{{ name }}")
    def greet(user: dict[str, Any]) -> str:
        from airflow.sdk import get_current_context

        get_current_context()["name"] = user["displayName"]  # type: ignore[typeddict-unknown-key]
        return f"Hello {user['displayName']}"

    greet.expand(user=users.output)
