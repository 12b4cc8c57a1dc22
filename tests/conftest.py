"""Tests have an Airflow home of their own and never look into a person's."""

from __future__ import annotations

import base64
import os
import secrets
import tempfile

# Before Airflow is imported, which reads them once.
_home = tempfile.TemporaryDirectory(prefix="deferred-expand-tests-")
os.environ["AIRFLOW_HOME"] = _home.name
# A home's first process would otherwise find no key yet (Airflow 3.2.2, airflow.sdk.configuration).
os.environ["AIRFLOW__CORE__FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
