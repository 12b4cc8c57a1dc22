"""Requests to Airflow that are passed on from another process, through a trigger runner's supervisor."""

from __future__ import annotations

from functools import cache
from typing import Any

from airflow.sdk._shared.secrets_masker import mask_secret
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse, MaskSecret, ToTask
from pydantic import TypeAdapter, ValidationError


def install_comms(comms: Any) -> None:
    """Have what the SDK asks of Airflow in this process go through ``comms``, by ``send`` and ``asend``."""
    task_runner.SUPERVISOR_COMMS = comms


async def ask(body: dict[str, Any]) -> dict[str, Any] | None:
    """
    In a trigger runner: ask Airflow what another process wants to know.

    Only what a triggerer answers: others it leaves without an answer, and who asks waits for ever
    (airflow/jobs/triggerer_job_runner.py, ``TriggerRunnerSupervisor._handle_request``).

    :param body: a message, as JSON.
    :return: the answer, as JSON.
    """
    try:
        message = questions().validate_python(body)
        if isinstance(message, MaskSecret):
            mask_secret(message.value, message.name)
        answer: Any = await task_runner.SUPERVISOR_COMMS.asend(message)
    except ValidationError:
        return _error(f"{body.get('type')} is not answered in a triggerer")
    except AirflowRuntimeError as error:
        answer = error.error
    except Exception as error:  # who asks must not wait for ever
        return _error(f"{body.get('type')} was not answered: {error!r}")
    return None if answer is None else dict(answer.model_dump(mode="json", by_alias=True))


def answer_of(body: dict[str, Any] | None) -> Any:
    """
    The answer, in the process that has asked.

    :raises AirflowRuntimeError: it is an error.
    """
    if body is None:
        return None
    answer = _answers().validate_python(body)
    if isinstance(answer, ErrorResponse):
        raise AirflowRuntimeError(answer)
    return answer


def _error(text: str) -> dict[str, Any]:
    return ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={"message": text}).model_dump(mode="json")


@cache
def questions() -> TypeAdapter[Any]:
    """What a triggerer answers. Takes a while where it is not loaded."""
    from airflow.jobs.triggerer_job_runner import ToTriggerSupervisor  # loads much

    return TypeAdapter(ToTriggerSupervisor)


@cache
def _answers() -> TypeAdapter[Any]:
    return TypeAdapter(ToTask)
