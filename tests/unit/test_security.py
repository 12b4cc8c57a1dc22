"""A source's name is a name and nothing else, and nothing is ever unpickled."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import deferred_expand
from deferred_expand.exceptions import SourceNotImportable
from deferred_expand.sources.importing import import_source

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
