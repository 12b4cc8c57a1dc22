"""The source's arguments on a worker: rendered for the source, and shown as the author wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.airflow_internals.sdk import BaseOperator
from deferred_expand.sources.arguments import mask

if TYPE_CHECKING:
    from collections.abc import Collection


class SourceArguments(BaseOperator):
    """
    An operator with the arguments of a source.

    Airflow keeps what is in a template field once it was rendered, in clear
    (``rendered_task_instance_fields``; airflow/sdk/execution_time/task_runner.py,
    ``_serialize_rendered_fields``). So the field goes back to what the author wrote, which the DAG shows
    anyway, but for what the author lets be seen.

    :ivar source_kwargs: as written.
    :ivar show: names of those that are shown rendered.
    """

    source_kwargs: dict[str, Any]
    show: Collection[str] = ()
    _written: dict[str, Any] | None = None
    _rendered: dict[str, Any] | None = None

    @property
    def rendered_kwargs(self) -> dict[str, Any]:
        """The arguments for the source; as written before they are rendered."""
        return self.source_kwargs if self._rendered is None else self._rendered

    def _context_of_source(self, context: Any) -> Any:
        """The arguments belong to the unmapped task, whoever renders them."""
        return context

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        # Rendered again, as in dag.test(), what was rendered would be a template.
        self._written = written = self.source_kwargs if self._written is None else self._written
        self.source_kwargs = written
        super().render_template_fields(self._context_of_source(context), jinja_env)
        self._rendered = self.source_kwargs
        mask(self._rendered)
        self.source_kwargs = {
            name: self._rendered[name] if name in self.show else value for name, value in written.items()
        }
