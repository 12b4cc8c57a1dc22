"""A source's name is a name and nothing else, and nothing is ever unpickled."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

import deferred_expand
from deferred_expand import DeferredExpandOperator
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.importing import import_source
from tests.e2e import sources
from tests.e2e.operators import EchoOperator

PACKAGE = Path(deferred_expand.__file__).parent


@pytest.mark.parametrize(
    "name",
    [
        "os:system('touch {}')",
        "os:__import__('pathlib').Path('{}').touch()",
        "pathlib:Path('{}').touch",
        "builtins:eval('1')",
        "os;touch {}:path",
    ],
)
def test_a_source_is_imported_and_never_evaluated(name: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with pytest.raises(SourceNotImportable):
        import_source(name.format(touched))
    assert not touched.exists()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_pickle_and_no_evaluation(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}


FORBIDDEN = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}


@pytest.mark.parametrize("kind", ["unmapped", "head"])
def test_rendered_arguments_are_shown_as_they_are_written(kind: str) -> None:
    """What is in a template field after rendering is what Airflow keeps, in clear."""
    with DAG("dag", schedule=None):
        users = DeferredExpandOperator(
            task_id="users",
            source=sources.gated_by_password,
            source_kwargs={"gates": "{{ '{' ~ '{ 1 }}' }}", "password": "{{ 'tok' ~ 'en' }}", "link": "x"},
            show=["gates"],
        )
        mapped: Any = EchoOperator.partial(task_id="echo").expand(value=users.output)
    operator: Any = users if kind == "unmapped" else mapped.make_head()
    for _ in range(2):  # a task may be rendered again
        operator.render_template_fields({"ti": SimpleNamespace(), "run_id": "run"})
        assert operator.rendered_kwargs == {"gates": "{{ 1 }}", "password": "token", "link": "x"}
        shown = {"gates": "{{ 1 }}", "password": "{{ 'tok' ~ 'en' }}", "link": "x"}
        assert operator.source_kwargs == shown
    assert operator.template_fields == ("source_kwargs",)
