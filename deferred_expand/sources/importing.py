"""Naming a source, or another function, so that another process finds it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from deferred_expand.airflow_internals.folders import MANGLED_MODULE_PREFIX, dag_folders, plugins_folder
from deferred_expand.exceptions import SourceNotImportable

if TYPE_CHECKING:
    from collections.abc import Callable

_REMEDY = (
    "Move the source to a module that is installed, in Airflow's plugins folder, or on the PYTHONPATH of "
    "every component, and pass source='my_project.sources:{name}' or the function imported from there; "
    "triggerers load DAG files only where [deferred_expand] load_dags is True, the default"
)


@dataclass(frozen=True)
class ImportPath:
    """:param path: ``"package.module:name"``, which any process can import."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class DagPlace:
    """
    What only a DAG file has, by its place in the DAG; found where the DAG is loaded.

    :param task_id: of the unmapped task.
    :param step: which of the steps that shape its stream, from 0; ``None``: its source.
    :param name: for people.
    """

    dag_id: str
    task_id: str
    step: int | None
    name: str

    def __str__(self) -> str:
        return self.name


FunctionName: TypeAlias = ImportPath | DagPlace


def name_from_json(data: dict[str, Any]) -> FunctionName:
    return ImportPath(**data) if "path" in data else DagPlace(**data)


_dags_here: dict[str, Any] = {}


def keep_dag(dag: Any) -> None:
    """In ``dag.test()``, where triggers run in the process that has loaded the DAG."""
    _dags_here[dag.dag_id] = dag


def kept_dag(dag_id: str) -> Any:
    return _dags_here.get(dag_id)


def find_function(name: FunctionName, dag: Any = None) -> Callable[..., Any]:
    """
    :param dag: where this process has loaded it.
    :raises SourceNotImportable: it is not to be found here.
    """
    if isinstance(name, ImportPath):
        return import_source(name.path)
    if dag is None:
        raise SourceNotImportable(
            f"DAG {name.dag_id!r}, task {name.task_id!r}: only the DAG file has {name.name!r}"
        )
    found: Callable[..., Any] = dag.get_task(name.task_id).function_at(name.step)
    if name_of(found) != name.name:
        raise SourceNotImportable(
            f"DAG {name.dag_id!r}, task {name.task_id!r}: in the place of {name.name!r} the DAG file has "
            f"{name_of(found)!r} now"
        )
    return found


def name_of(function: Any) -> str:
    """For people, and to know it again."""
    return str(getattr(function, "__name__", None) or type(function).__name__)


def import_source(path: str) -> Callable[..., Any]:
    """
    Import ``"package.module:name"`` (``name`` may be dotted); nothing in it is evaluated.

    :raises SourceNotImportable: there is no such module, or no such callable in it.
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise SourceNotImportable(f"source {path!r} is not of the form 'package.module:name'")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SourceNotImportable(
            f"source {path!r} cannot be imported: {error}. {_REMEDY.format(name=name)}"
        ) from error
    if not callable(found):
        raise SourceNotImportable(f"source {path!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def source_path(source: str | Callable[..., Any]) -> str:
    """
    The ``"package.module:name"`` under which a triggerer can import the source.

    :raises SourceNotImportable: it could not, or only the DAG parser can.
    """
    if isinstance(source, str):
        path, function = source, import_source(source)
    else:
        path, function = _name_of(source), source
    if _is_only_found_by_dag_parser(inspect.getmodule(function)):
        name = path.partition(":")[2]
        raise SourceNotImportable(f"source {path!r} lies in a DAG folder. {_REMEDY.format(name=name)}")
    return path


def _name_of(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", None) or ""
    shown = name or repr(function)
    if not name or "<lambda>" in name:
        raise SourceNotImportable(f"source {shown} has no name. {_REMEDY.format(name='my_source')}")
    if "<locals>" in name:
        inner = name.rpartition(".")[2]
        raise SourceNotImportable(
            f"source {inner!r} is defined inside a function. {_REMEDY.format(name=inner)}"
        )
    if module == "__main__" or module.startswith(MANGLED_MODULE_PREFIX):
        raise SourceNotImportable(f"source {name!r} is defined in the DAG file. {_REMEDY.format(name=name)}")
    path = f"{module}:{name}"
    found = import_source(path)
    if found is not function and _identity(found) != _identity(function):
        raise SourceNotImportable(
            f"{path!r} is something else than the function given as source (is it decorated?). "
            f"{_REMEDY.format(name=name)}"
        )
    return path


def _identity(thing: Any) -> tuple[Any, ...]:
    """
    What makes a function, a method or a class the same, also if its module was run twice.

    Airflow runs each file of the plugins folder once more when it loads the plugins, and a DAG file may
    have imported from it before (see ``airflow_internals.plugins``).
    """
    code = getattr(thing, "__code__", None)
    owner = getattr(thing, "__self__", None)
    functions = [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]
    return (
        getattr(thing, "__module__", None),
        getattr(thing, "__qualname__", None),
        code and code.co_name,  # a decorator's wrapper has only taken on the name
        {os.path.realpath(each.__code__.co_filename) for each in functions if hasattr(each, "__code__")},
        owner and _identity(owner),
    )


def _is_only_found_by_dag_parser(module: Any) -> bool:
    """
    Whether the module is on ``sys.path`` only because its folder holds DAGs.

    The DAG parser adds a bundle's folder to ``sys.path`` (airflow/dag_processing/dagbag.py,
    ``BundleDagBag``); a triggerer has the PYTHONPATH and the plugins and config folders only
    (airflow/settings.py, ``prepare_syspath_for_config_and_plugins``).
    """
    file = getattr(module, "__file__", None)
    if not file:
        return False
    file = os.path.realpath(file)
    everywhere = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    everywhere += [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    everywhere.append(plugins_folder())
    return _is_in(file, dag_folders()) and not _is_in(file, map(os.path.realpath, everywhere))


def _is_in(file: str, folders: Any) -> bool:
    return any(file.startswith(os.path.join(folder, "")) for folder in folders)
