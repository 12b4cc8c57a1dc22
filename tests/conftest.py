"""Tests have an Airflow home of their own and never look into a person's."""

from __future__ import annotations

import base64
import os
import secrets
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# Before Airflow is imported, which reads them once.
_home = tempfile.TemporaryDirectory(prefix="deferred-expand-tests-")
os.environ["AIRFLOW_HOME"] = _home.name
# A home's first process would otherwise find no key yet (Airflow 3.2.2, airflow.sdk.configuration).
os.environ["AIRFLOW__CORE__FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--celery",
        action="store_true",
        help="end-to-end tests on Postgres with CeleryExecutor, Redis, two schedulers and two "
        "triggerers, and XComs in object storage",
    )
