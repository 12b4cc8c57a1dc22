"""Who may look at a stream, stop it, and change its limits: the table of the README, with FAB's roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.models import import_all_models
from airflow.utils.session import create_session
from starlette.testclient import TestClient

from tests.metadata_database import RUN_ID, USERS, OpenStream, metadata_database, write_xcom

if TYPE_CHECKING:
    from collections.abc import Iterator

# Flask's, FAB's and Alembic's own, of which none is about what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
OWN_ROLES = {
    # On top of the Viewer's rights, but the last: those of one DAG only.
    "Stops": [("can_edit", "Task Instances"), ("can_edit", "DAG Runs"), ("can_edit", "DAGs")],
    "Limits": [("can_create", "XComs"), ("can_edit", "XComs"), ("can_edit", "DAGs")],
    "Creates": [("can_create", "XComs"), ("can_edit", "DAGs")],
    "One": [("can_read", "Task Instances"), ("can_read", "DAG Runs"), ("can_read", "DAG:fab_first")],
}
"""Roles that a deployment may have made itself, with their rights."""

MAY = {
    # role: sees, stops, changes limits
    "Public": (False, False, False),
    "Viewer": (True, False, False),
    "User": (True, True, False),
    "Op": (True, True, True),
    "Admin": (True, True, True),
    "Stops": (True, True, False),
    "Limits": (True, False, True),
    "Creates": (True, False, False),
    "One": (True, False, False),
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TestClient]]:
    """A signed-in user of each role; in a process that knows FAB, which is Flask's."""
    from airflow.api_fastapi.app import create_app, get_auth_manager, purge_cached_app

    import_all_models()
    folder = tmp_path_factory.mktemp("fab")
    with pytest.MonkeyPatch.context() as patches, metadata_database("sqlite", folder):
        patches.setenv("AIRFLOW__CORE__AUTH_MANAGER", FAB)
        patches.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of these tests " * 4)
        purge_cached_app()
        _make_tables()
        OpenStream.begin("fab_first")
        OpenStream.begin("fab_second")
        server: Any = create_app(apps="core")
        tokens = _tokens(get_auth_manager())
        found = {}
        for role, token in tokens.items():
            found[role] = TestClient(server, base_url="http://airflow")
            found[role].cookies.set("_token", token)
        yield found
        purge_cached_app()


def _make_tables() -> None:
    from airflow.providers.fab.auth_manager.models.db import FABDBManager

    with create_session() as session:
        FABDBManager(session).create_db_from_orm()


def _tokens(manager: Any) -> dict[str, str]:
    from airflow.providers.fab.www.app import create_app as create_flask_app

    app: Any = create_flask_app(enable_plugins=False)
    with app.app_context():
        security = app.appbuilder.sm
        security.sync_roles()
        for dag_id in ("fab_first", "fab_second"):
            security.sync_perm_for_dag(dag_id, None)
        for role, rights in OWN_ROLES.items():
            made = security.add_role(role)
            of_viewer = [] if role == "One" else list(security.find_role("Viewer").permissions)
            for permission in of_viewer:
                security.add_permission_to_role(made, permission)
            for right in rights:
                security.add_permission_to_role(made, security.create_permission(*right))
        return {
            role: manager.generate_jwt(
                security.add_user(
                    role, role, role, f"{role}@example.org", security.find_role(role), password="secret"
                )
            )
            for role in MAY
        }


def page(client: TestClient, dag_id: str = "fab_first") -> Any:
    return client.get(
        "/deferred_expand/stream", params={"dag_id": dag_id, "run_id": RUN_ID, "task_id": USERS}
    )


@pytest.mark.parametrize("role", MAY)
def test_a_role_sees_and_may_do_what_the_table_says(clients: dict[str, TestClient], role: str) -> None:
    sees, stops, changes = MAY[role]
    answer = page(clients[role])
    assert (answer.status_code == 200) is sees
    assert (">Stop</button>" in answer.text) is stops
    assert (">Pause</button>" in answer.text) is changes
    assert ('name="max_pending"' in answer.text) is changes
    assert ("not change it" in answer.text) is (sees and not stops and not changes)


@pytest.mark.parametrize("role", MAY)
def test_airflows_own_api_lets_the_same_roles_change_something(
    clients: dict[str, TestClient], role: str
) -> None:
    """What the buttons ask for."""
    _, stops, changes = MAY[role]
    of_run = f"/api/v2/dags/fab_first/dagRuns/{RUN_ID}/taskInstances"
    body = {"key": f"deferred_expand.control.{role}", "value": {}, "map_index": -1}
    created = clients[role].post(f"{of_run}/{USERS}/xcomEntries", json=body)
    assert (created.status_code == 201) is (changes or role == "Creates")
    with create_session() as session:
        write_xcom(session, OpenStream("fab_first").run(session), "mine", USERS, -1, 1)
    body = {"value": 2, "map_index": -1}
    changed = clients[role].patch(f"{of_run}/{USERS}/xcomEntries/mine", json=body)
    assert (changed.status_code == 200) is changes
    marked = clients[role].patch(
        f"{of_run}/insert/0", params={"update_mask": "note"}, json={"note": "not a change of the state"}
    )
    assert (marked.status_code != 403) is stops


def test_who_may_see_one_dag_sees_no_other(clients: dict[str, TestClient]) -> None:
    assert page(clients["One"], "fab_second").status_code == 403
    listed = clients["One"].get("/deferred_expand/streams")
    assert listed.status_code == 200
    assert "fab_first" in listed.text
    assert "fab_second" not in listed.text
    assert "fab_second" in clients["Viewer"].get("/deferred_expand/streams").text
