"""``@task.stream``: a source written as a function of the DAG file."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, overload

from deferred_expand.airflow_internals.decorators import DecoratedOperator, TaskDecorator
from deferred_expand.airflow_internals.tasks import current_dag_id
from deferred_expand.exceptions import DefinitionError
from deferred_expand.operators.checks import refuse_mapped
from deferred_expand.operators.deferred_expand import DeferredExpandOperator
from deferred_expand.sources.arguments import POSITIONAL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from deferred_expand.operators.reference import StreamReference

GIVEN_BY_THE_WALK = ("cursor", "results")  # parameters of a source that its caller does not give


class StreamDecoratedOperator(DecoratedOperator, DeferredExpandOperator):
    """
    The unmapped task of a function that is a source.

    :param python_callable: the source.
    :param op_args: its arguments by position. (templated)
    :param op_kwargs: its arguments by name. (templated)
    :raises DefinitionError: the DAG uses it wrongly.
    """

    template_fields = ("source_kwargs",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"source_kwargs": "py"}
    custom_operator_name: ClassVar[str] = "@task.stream"
    _takes_context = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        multiple_outputs: bool = False,
        **kwargs: Any,
    ) -> None:
        where = f"DAG {current_dag_id()!r}, task {kwargs.get('task_id')!r}"
        if multiple_outputs:
            raise DefinitionError(
                f"{where}: a stream has no multiple_outputs: each item becomes a task instance. Leave it out"
            )
        signature, named = inspect.signature(python_callable), dict(op_kwargs or {})
        for name in GIVEN_BY_THE_WALK:
            if name in named:
                raise DefinitionError(
                    f"{where}: {name!r} is given by whoever walks the stream; leave it out of the call"
                )
        walked = {name: None for name in GIVEN_BY_THE_WALK if _needs(signature, name)}
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs={**named, **walked},
            kwargs_to_upstream={
                "source": python_callable,
                "source_kwargs": _by_name(signature, op_args or (), named),
            },
            **kwargs,
        )
        # What is rendered are the source's arguments: once.
        self.op_args, self.op_kwargs = (), {}

    @property
    def is_async(self) -> bool:
        """Opening the stream is not, whatever the function is."""
        return False

    @classmethod
    def partial(cls, **kwargs: Any) -> NoReturn:
        """:raises DefinitionError: always."""
        DeferredExpandOperator.partial(**kwargs)


def _needs(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def _by_name(
    signature: inspect.Signature, positional: Collection[Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments as the source's keyword arguments, but for those that have no name."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL} & set(kinds):
        return {POSITIONAL: list(positional), **named} if positional else dict(named)
    return {**dict(zip(signature.parameters, positional, strict=False)), **named}


class StreamDecorator(TaskDecorator[Any, Any, Any]):
    """What a function is once it is decorated: called, it adds a task and gives the stream."""

    def __call__(self, *args: Any, **kwargs: Any) -> StreamReference:
        if self.kwargs.pop("multiple_outputs", False):
            self.multiple_outputs = True  # which the operator refuses
        reference: Any = super().__call__(*args, **kwargs)
        output: StreamReference = reference.operator.output
        return output

    def expand(self, **kwargs: Any) -> NoReturn:
        """:raises DefinitionError: always."""
        self._refuse_mapped()

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> NoReturn:
        """:raises DefinitionError: always."""
        self._refuse_mapped()

    def partial(self, **kwargs: Any) -> NoReturn:
        """:raises DefinitionError: always."""
        self._refuse_mapped()

    def _refuse_mapped(self) -> NoReturn:
        refuse_mapped(f"DAG {current_dag_id()!r}, task {self.kwargs.get('task_id')!r}")


class StreamFunction(Protocol):
    """
    For type checkers: a decorated function.

    Its arguments may be templates and outputs of other tasks, and some come from the context, so they are
    not those of the function.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> StreamReference:
        """Add a task; its stream."""

    def override(self, **kwargs: Any) -> StreamFunction:
        """The same with other parameters of the task."""


@overload
def stream(python_callable: Callable[..., Any]) -> StreamFunction: ...


@overload
def stream(
    *, multiple_outputs: bool | None = None, **kwargs: Any
) -> Callable[[Callable[..., Any]], StreamFunction]: ...


def stream(python_callable: Any = None, *, multiple_outputs: bool | None = None, **kwargs: Any) -> Any:
    """
    Make a function the source of a stream: an async generator, a generator, or what returns an iterable.

    ::

        @task.stream(max_pending=50)
        async def users(url: str, cursor=None):
            ...
            yield Page(rows, cursor=next_cursor)

        insert.expand(row=users("{{ params.url }}"))

    ``stream`` of this package and ``task.stream`` are the same; this one is typed. The function may lie
    anywhere in the DAG file, which triggerers load for it. Arguments may be templates and outputs of other
    tasks. It gets ``cursor`` and ``results`` as any source does, and of the context what it has parameters
    for, as any ``@task`` function.

    :param kwargs: parameters of :class:`~deferred_expand.DeferredExpandOperator` and of any task.
    :raises DefinitionError: the DAG uses it wrongly.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return StreamDecorator(
            function=function,
            operator_class=StreamDecoratedOperator,
            multiple_outputs=bool(multiple_outputs),
            kwargs=dict(kwargs),
        )

    if python_callable is None:
        return decorate
    if not callable(python_callable):
        raise TypeError("@task.stream takes no positional arguments, use named arguments instead")
    return decorate(python_callable)
