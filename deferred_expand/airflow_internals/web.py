"""
Who asks for a page, and what they may see: Airflow's answers, in an app that is mounted in its API server.

Such an app is checked by nobody else (airflow/api_fastapi/app.py, ``init_plugins``), and what looks into
``request.app.state`` does not work in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.dag import DagModel
from airflow.utils.session import create_session
from fastapi import Depends
from sqlalchemy import text
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: Of a route with ``dag_id`` in its query: 401 and 403 for others.
READS_INSTANCES = Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))


def _session() -> Iterator[Session]:
    with create_session(scoped=False) as session:
        if session.get_bind().dialect.name == "postgresql":
            # A plan for any DAG takes many times as long for one with 100,000 instances as its own; from the
            # tenth time on psycopg 3 would have the first.
            session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        yield session


SessionDep = Annotated[Session, Depends(_session)]


def readable(user: Any, dag_ids: Collection[str]) -> set[str]:
    """Those of these DAGs whose task instances the user may see."""
    return {dag_id for dag_id, details in _details(dag_ids).items() if _may(user, "GET", details)}


def may_change(user: Any, dag_id: str) -> bool:
    """Whether the user may mark and clear task instances of a DAG."""
    return _may(user, "PUT", _details([dag_id])[dag_id])


def may_write_xcoms(user: Any, dag_id: str) -> bool:
    """Whether the user may write XComs of a DAG, new ones and others: rights of their own with FAB."""
    details = _details([dag_id])[dag_id]
    return all(_may(user, method, details, DagAccessEntity.XCOM) for method in ("POST", "PUT"))


def _may(
    user: Any, method: Any, details: DagDetails, entity: DagAccessEntity = DagAccessEntity.TASK_INSTANCE
) -> bool:
    return get_auth_manager().is_authorized_dag(
        method=method, access_entity=entity, details=details, user=user
    )


def _details(dag_ids: Collection[str]) -> dict[str, DagDetails]:
    teams = DagModel.get_dag_id_to_team_name_mapping(list(dag_ids))
    return {dag_id: DagDetails(id=dag_id, team_name=teams.get(dag_id)) for dag_id in dag_ids}


__all__ = ["READS_INSTANCES", "GetUserDep", "SessionDep", "may_change", "may_write_xcoms", "readable"]
