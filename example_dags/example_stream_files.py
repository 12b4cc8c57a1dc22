"""One Bash command per file of a folder, whose names come from an ordinary generator."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

from deferred_expand import DeferredExpandOperator

with DAG(
    "example_stream_files",
    schedule=None,
    params={"folder": Param("/usr/share/doc", type="string"), "pattern": Param("*.py", type="string")},
    tags=["deferred_expand"],
):
    files = DeferredExpandOperator(
        task_id="files",
        source="shop_sources:list_files",
        source_kwargs={"folder": "{{ params.folder }}", "pattern": "{{ params.pattern }}"},
    )

    BashOperator.partial(task_id="count_bytes", map_index_template="{{ task.env['FILE'] }}").expand_kwargs(
        files.output
    )
