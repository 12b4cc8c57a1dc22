"""The package's shape."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from ast import literal_eval
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import deferred_expand
from deferred_expand import exceptions, settings
from deferred_expand.provider_info import get_provider_info
from deferred_expand.settings_reference import OPTIONS

PACKAGE = Path(deferred_expand.__file__).parent
PURE = ["exceptions", *(f"{folder}.{path.stem}" for folder in ("iterating", "streams", "walking")
                        for path in (PACKAGE / folder).glob("[a-z]*.py"))]  # fmt: skip


# What is loaded only where it is needed; none of it is there to break a circle.
LATE = {
    ("airflow_internals.asking", "airflow.jobs.triggerer_job_runner"): "only in trigger runners",
    ("airflow_internals.bundles", "airflow.dag_processing.bundles.base"): "only where DAG files are loaded",
    (
        "airflow_internals.bundles",
        "airflow.dag_processing.bundles.manager",
    ): "only where DAG files are loaded",
    ("airflow_internals.bundles", "airflow.dag_processing.dagbag"): "only where DAG files are loaded",
    (
        "airflow_internals.bundles",
        "airflow.sdk.definitions._internal.dag_parsing_context",
    ): "only where DAG files are loaded",
    ("airflow_internals.comms", "greenback"): "only where a trigger runs",
    ("plugin.airflow_plugin", "deferred_expand.airflow_internals.locks"): "only in triggerers",
    ("plugin.airflow_plugin", "deferred_expand.pages.app"): "only in API servers",
    ("plugin.airflow_plugin", "deferred_expand.plugin.expander"): "only in triggerers",
    ("provider_info", "deferred_expand"): "read with every command of Airflow's",
    ("provider_info", "deferred_expand.settings_reference"): "read with every command of Airflow's",
    ("walking.retry", "aiohttp"): "costs a tenth of a second, which DAG files need not pay",
}


def parsed_modules() -> dict[str, ast.Module]:
    files = {path.relative_to(PACKAGE): path for path in PACKAGE.rglob("*.py")}
    return {
        ".".join(name.with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for name, path in files.items()
        if name.parts[0] not in ("demo", "testing")
    }


def test_imports_within_functions_are_there_for_a_reason() -> None:
    found = {
        (module, node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for module, tree in parsed_modules().items()
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert found == set(LATE)


def test_each_public_name_is_defined_in_one_place() -> None:
    places = defaultdict(set)
    for module, tree in parsed_modules().items():
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                places[node.name].add(module)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    places[ast.unparse(target)].add(module)
    public = {name: where for name, where in places.items() if not name.startswith("_")}
    loggers, type_variables = {"log", "logger"}, {"P", "R", "T"}
    assert not {n: w for n, w in public.items() if len(w) > 1 and n not in loggers | type_variables}


def test_every_public_name_can_be_imported() -> None:
    assert {getattr(deferred_expand, name).__name__ for name in deferred_expand.__all__} == set(
        deferred_expand.__all__
    )
    with pytest.raises(AttributeError, match="no attribute 'Pages'"):
        deferred_expand.Pages  # noqa: B018


def test_every_error_is_listed_and_is_one_of_ours() -> None:
    errors = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    drawn = re.findall(r"^ .*?(\w+)(?:  .*)?$", exceptions.__doc__ or "", re.MULTILINE)
    assert sorted(drawn) == sorted(errors)
    assert all(issubclass(getattr(exceptions, name), exceptions.DeferredExpandError) for name in errors)


@pytest.mark.parametrize(
    "code", ["from deferred_expand import Page", *(f"import deferred_expand.{m}" for m in PURE)]
)
def test_what_is_plain_python_does_not_load_airflow(code: str) -> None:
    check = f"{code}\nimport sys; assert 'airflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_setting_has_its_default_and_can_be_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Any = getattr(settings, name)
    default, other = OPTIONS[name]["default"], "False" if OPTIONS[name]["type"] == "boolean" else "77"
    assert read() == literal_eval(default)
    monkeypatch.setenv(f"AIRFLOW__DEFERRED_EXPAND__{name.upper()}", other)
    assert read() == literal_eval(other)


def test_the_requeue_delay_is_longer_than_an_exit_may_go_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DEFERRED_EXPAND__REQUEUE_DELAY", "0")
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "20")
    assert settings.requeue_delay() == 21


def test_the_provider_names_version_and_settings() -> None:
    info = get_provider_info()
    assert info["versions"] == [deferred_expand.__version__]
    assert set(info["config"]["deferred_expand"]["options"]) == set(OPTIONS)
