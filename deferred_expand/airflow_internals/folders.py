"""Which folders are on ``sys.path``, and in which components."""

from __future__ import annotations

import os

from airflow.sdk.configuration import conf

# A DAG file is loaded under a name that no other process can import
# (airflow/dag_processing/dagbag.py and airflow/utils/file.py, get_unique_dag_module_name).
MANGLED_MODULE_PREFIX = "unusual_prefix_"


def plugins_folder() -> str:
    """On ``sys.path`` in every component (airflow/settings.py)."""
    return os.path.realpath(str(conf.get("core", "plugins_folder")))


def dag_folders() -> list[str]:
    """Folders that are on ``sys.path`` where DAG files are parsed, but not in a triggerer."""
    folders = [conf.get("core", "dags_folder", fallback="")]
    bundles = conf.getjson("dag_processor", "dag_bundle_config_list", fallback=None) or []
    folders += [str(bundle.get("kwargs", {}).get("path") or "") for bundle in bundles]
    folders.append(conf.get("dag_processor", "dag_bundle_storage_path", fallback="") or "")
    return [os.path.realpath(folder) for folder in folders if folder]
