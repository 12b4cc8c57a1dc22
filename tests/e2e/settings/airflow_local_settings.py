"""A cluster policy of the end-to-end tests."""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import wrapt

# LocalExecutor's task processes are forks of the scheduler's, files are parsed in forks of the
# processor's: what most DAGs import is imported there once, instead of in each task for 0.8 s.
FORKING = ("scheduler", "dag-processor")
SHARED_IMPORTS = (
    "deferred_expand.operators.deferred_expand",
    "airflow.providers.common.sql.operators.generic_transfer",
    "airflow.providers.http.operators.http",
    "airflow.providers.standard.operators.empty",
)


class StaticCredential:
    """In place of Azure's, which would ask Microsoft for a token; nothing else of Graph is replaced."""

    closed = False

    async def get_token(self, *scopes: str, **_: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken("a token", 2**33)

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> StaticCredential:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@wrapt.when_imported("airflow.providers.microsoft.azure.hooks.msgraph")
def replace_credential(hooks: Any) -> None:
    hooks.KiotaRequestAdapterHook.get_credentials = lambda self, **_: StaticCredential()


def import_what_forks_share() -> None:
    for module in SHARED_IMPORTS:
        import_module(module)


if any(component in sys.argv for component in FORKING):
    os.register_at_fork(before=import_what_forks_share)


def task_instance_mutation_hook(task_instance: Any, dag_run: Any = None) -> None:
    if "triggerer" in sys.argv:
        home = Path(os.environ["AIRFLOW_HOME"])
        if (home / "policy_fails").exists():
            raise LookupError("the policy fails in triggerers")
        while (home / "policy_stands_still").exists():
            time.sleep(0.2)
    if task_instance.dag_id == "compared" and task_instance.map_index > 0:
        task_instance.pool = "slotless"  # what is made stays as it was made
        task_instance.pool_slots = 1 + task_instance.map_index
