"""Airflow's plugins, which one process may load twice: for its core, and for its SDK."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.plugins_manager import _get_plugins as core_plugins
from airflow.sdk.plugins_manager import _get_plugins as sdk_plugins


def load_plugins() -> None:
    """
    Load the plugins now that the SDK would load when it is first asked for one of them.

    Each file of the plugins folder is run once more then, outside the import lock, and its module is in
    ``sys.modules`` before that, in place of the one that was there: who imports it meanwhile in another
    thread finds half of it (airflow/_shared/plugins_manager/plugins_manager.py,
    ``_load_plugins_from_plugin_directory``). Of a file that raises, half a module stays for good. Here
    the whole one is put back that the core has loaded; without one, whoever imports the module is told
    what it raises.
    """
    core_errors = core_plugins()[1]
    before = dict(sys.modules)
    for file in sdk_plugins()[1]:
        name = Path(file).stem
        if getattr(sys.modules.get(name), "__file__", None) != file:
            continue
        whole = None if file in core_errors else before.get(name)
        if whole is None:
            del sys.modules[name]
        else:
            sys.modules[name] = whole
