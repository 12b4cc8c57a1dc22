"""The DAGs that a DAG file process has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.bundles import load_dag
from deferred_expand.dag_files.orders import DagMissing
from deferred_expand.exceptions import SourceNotImportable

if TYPE_CHECKING:
    from deferred_expand.dag_files.orders import WalkOrder

_REMEDY = (
    "It is loaded in the triggerer, whose image, environment and DAG bundles must be those of the workers. "
    "[deferred_expand] load_dags = False has sources imported from installed modules only"
)


class LoadedDags:
    """Each is loaded once: its process is for one state of the files."""

    def __init__(self) -> None:
        self._dags: dict[tuple[str, str, str], Any] = {}

    def find(self, order: WalkOrder, dag_id: str, task_id: str) -> Any:
        """
        :raises DagMissing: the file or the DAG is not there, maybe not yet.
        :raises SourceNotImportable: the file cannot be imported here.
        """
        key = order.file, dag_id, task_id  # a file may make what it is asked for, and no more
        if key not in self._dags:
            self._dags[key] = self._load(order, dag_id, task_id)
        return self._dags[key]

    def _load(self, order: WalkOrder, dag_id: str, task_id: str) -> Any:
        what = f"DAG {dag_id!r} in {order.file!r} of DAG bundle {order.bundle!r}"
        try:
            dag, errors = load_dag(order.folder, order.bundle, order.file, dag_id, task_id)
        except SystemExit as error:
            raise SourceNotImportable(
                f"{what}: its import called sys.exit({error.code!r}). {_REMEDY}"
            ) from error
        if dag is not None:
            return dag
        if errors:
            raise SourceNotImportable(f"{what} cannot be imported: {' '.join(errors.values())}\n{_REMEDY}")
        raise DagMissing(f"{what} is not to be found. {_REMEDY}")
