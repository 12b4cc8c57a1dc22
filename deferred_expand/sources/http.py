"""``HttpOperator``: each response is a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deferred_expand.sources.adapters import SourceAdapter, items_of

if TYPE_CHECKING:
    from deferred_expand.airflow_internals.sdk import BaseTrigger, TaskDeferred


class HttpAdapter(SourceAdapter):
    """
    ``response_check`` and ``response_filter`` are given one page at a time: a list with one
    response where there is a ``pagination_function``, as natively with one page, else the response.

    Natively the operator hands all earlier responses from hop to hop in ``paginated_responses``
    (airflow/providers/http/operators/http.py, ``paginate_async``), which with http provider 6.3.0
    cannot be serialized.
    """

    def of_deferral(
        self, operator: Any, context: Any, deferred: TaskDeferred, pushed: dict[str, Any]
    ) -> list[Any]:
        responses = (deferred.kwargs or {}).pop("paginated_responses", None)
        if not responses:
            return []
        return items_of(operator.process_response(context=context, response=responses))

    def prepare_trigger(self, trigger: BaseTrigger) -> None:
        """
        Let the walk's own policy ask again: the hook would do so without heeding ``Retry-After``,
        and the trigger's event tells only what went wrong, not when to come back.
        """
        make_hook = getattr(trigger, "_get_async_hook", None)
        if make_hook is not None:
            trigger._get_async_hook = lambda: _frank(make_hook(), trigger)  # type: ignore[attr-defined]

    def failure_of(self, trigger: BaseTrigger, event: Any) -> BaseException | None:
        return getattr(trigger, "last_error", None) if event.get("status") == "error" else None


def _frank(hook: Any, trigger: Any) -> Any:
    """The hook, which asks once, and notes its last error on the trigger."""
    hook.retry_limit = 1
    run = hook.run

    async def run_and_note(*args: Any, **kwargs: Any) -> Any:
        try:
            return await run(*args, **kwargs)
        except Exception as error:
            trigger.last_error = error
            raise

    hook.run = run_and_note
    return hook
