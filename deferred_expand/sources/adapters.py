"""
What an operator's hops give: adapters, and the operators they are for.

An operator that pages by deferring mostly collects its pages until the last one. An adapter takes
each hop's page out instead, so that it can be streamed, and leaves nothing of it to the next hop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deferred_expand.airflow_internals.sdk import BaseOperator, BaseTrigger, TaskDeferred


class SourceAdapter:
    """
    How to stream one kind of operator; this one suits operators that push each page as an XCom, or
    return everything at the end.

    Subclass it, override what differs, and register it with :func:`register_source_adapter`.
    ``deferred_expand.testing.check_adapter`` tells whether it keeps the contract. An adapter has no
    state of its own: a chain may go on in another process at any hop.
    """

    reads = False
    """Whether :meth:`read` takes the place of ``execute``, where :meth:`can_read` says so."""

    kept_xcoms: tuple[str, ...] = ()
    """Keys of what the operator pushes for itself, to be pulled at a later hop. Keep them small."""

    def prepare(self, operator: BaseOperator) -> None:
        """Called once the operator is made, before its first hop here."""

    def prepare_trigger(self, trigger: BaseTrigger) -> None:
        """Called before a trigger is walked to its event."""

    def can_read(self, operator: BaseOperator) -> bool:
        """``False``: what it is given asks for more than reading, so it is executed as it is."""
        return True

    def read(self, operator: BaseOperator, context: Any) -> Iterator[list[Any]]:
        """
        For an operator that does not defer and would return everything at once: read the same, page
        by page. It may block. After a crash it is read again, and what is committed passed over.
        """
        raise NotImplementedError

    def of_deferral(
        self, operator: BaseOperator, context: Any, deferred: TaskDeferred, pushed: dict[str, Any]
    ) -> list[Any]:
        """
        The items of a hop that ended by deferring again.

        Take what belongs to this page out of ``deferred.kwargs``: they are kept until the next hop.

        :param pushed: XComs that the operator pushed during the hop, by key.
        """
        return items_of(pushed.get("return_value"))

    def of_result(
        self, operator: BaseOperator, context: Any, result: Any, pushed: dict[str, Any]
    ) -> list[Any]:
        """The items of the last hop; ``result`` is what the operator returned."""
        return items_of(result)

    def failure_of(self, trigger: BaseTrigger, event: Any) -> BaseException | None:
        """
        The error behind an event that tells of one, where the trigger does not raise it.

        When it is transient (see :class:`~deferred_expand.SourceRetry`), the hop is made again, and
        the operator does not see the event.
        """
        return None


def items_of(value: Any) -> list[Any]:
    """A list gives its items, nothing gives none, anything else is one item."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


_adapters: dict[str, SourceAdapter | str] = {
    "airflow.providers.http.operators.http.HttpOperator": "deferred_expand.sources.http.HttpAdapter",
    "airflow.providers.microsoft.azure.operators.msgraph.MSGraphAsyncOperator": (
        "deferred_expand.sources.msgraph.MSGraphAdapter"
    ),
    "airflow.providers.common.sql.operators.generic_transfer.GenericTransfer": (
        "deferred_expand.sources.transfer.TransferAdapter"
    ),
    "airflow.providers.common.sql.operators.sql.SQLExecuteQueryOperator": (
        "deferred_expand.sources.sql.QueryAdapter"
    ),
}


def register_source_adapter(operator: type[BaseOperator], adapter: SourceAdapter) -> None:
    """
    Say how an operator class, and its subclasses, are streamed.

    Call it in a module that the triggerer imports too: the operator's own, or a plugin.
    """
    _adapters[_path(operator)] = adapter


def adapter_for(operator: type[BaseOperator]) -> SourceAdapter:
    """The adapter of the operator's class, or of the nearest class it derives from."""
    for cls in operator.__mro__:
        found = _adapters.get(_path(cls))
        if isinstance(found, str):
            module, _, name = found.rpartition(".")
            found = _adapters[_path(cls)] = getattr(import_module(module), name)()
        # Who has an ``execute`` of its own does something else.
        if found is not None and not (found.reads and operator.execute is not cls.execute):  # type: ignore[attr-defined]
            return found
    return SourceAdapter()


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
