"""DAG bundles: where the file of a DAG lies, in which version, and what is in it."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_NOT_DAGS = frozenset({"__pycache__", ".git"})


def bundle_of(context: Any) -> tuple[str, str | None, str] | None:
    """
    Name, version and file of the running task's DAG; ``None``: it was not loaded from a bundle.

    The file is relative to the bundle's folder, as a worker is given it
    (airflow/sdk/execution_time/task_runner.py, ``parse``).
    """
    bundle = getattr(context["ti"], "bundle_instance", None)
    file = getattr(context.get("dag"), "fileloc", None)
    if bundle is None or not file:
        return None
    return bundle.name, bundle.version, os.path.relpath(file, bundle.path)


def open_bundle(name: str, version: str | None) -> str:
    """
    The folder of a bundle, fetched if it is not here; as a worker does it.

    May ask Airflow for a connection. Blocks.
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager  # loads much

    bundle = DagBundlesManager().get_bundle(name=name, version=version)
    bundle.initialize()
    return os.fspath(bundle.path)


def version_in_use(name: str, version: str | None) -> AbstractContextManager[Any]:
    """Keeps a version of a bundle from being cleaned up meanwhile, as a worker does."""
    from airflow.dag_processing.bundles.base import BundleVersionLock

    lock: AbstractContextManager[Any] = BundleVersionLock(bundle_name=name, bundle_version=version)
    return lock


def state_of(folder: str) -> str:
    """Changes when any file under a bundle's folder does, also one that a DAG file only imports. Blocks."""
    state = blake2b(digest_size=12)
    for file in _files(folder):
        try:
            found = os.stat(file)
        except OSError:  # gone meanwhile
            continue
        state.update(f"{file}\0{found.st_mtime_ns}\0{found.st_size}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _files(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - _NOT_DAGS)
        yield from (os.path.join(parent, file) for file in sorted(files))


def load_dag(folder: str, bundle: str, file: str, dag_id: str, task_id: str) -> tuple[Any, dict[str, str]]:
    """
    A DAG of a bundle's file, parsed as a worker does it: also in a zip, with the parsing context set.

    :return: the DAG, or ``None``; and errors of the import, by file.
    """
    # In here: it takes a while, and is needed in DAG file processes only.
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    with _airflow_parsing_context_manager(dag_id=dag_id, task_id=task_id):
        bag = BundleDagBag(
            dag_folder=os.fspath(Path(folder, file)),
            safe_mode=False,
            load_op_links=False,
            bundle_path=Path(folder),
            bundle_name=bundle,
        )
    return bag.dags.get(dag_id), bag.import_errors


def missing_dag_retries() -> tuple[int, float]:
    """
    How often a worker looks again for a DAG that is not in its file yet, and the seconds in between
    (airflow/sdk/execution_time/task_runner.py, ``_maybe_reschedule_startup_failure``).
    """
    retries = conf.getint("workers", "missing_dag_retries", fallback=3)
    return retries, conf.getfloat("workers", "missing_dag_retry_delay", fallback=60.0)


def import_timeout() -> float:
    """Seconds that the import of a DAG file may take (``[core] dagbag_import_timeout``)."""
    return float(conf.getfloat("core", "dagbag_import_timeout", fallback=30.0))
