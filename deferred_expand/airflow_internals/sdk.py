"""Airflow where DAGs are parsed, tasks run and triggers run: names that have no public home, or may move."""

from __future__ import annotations

from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk._shared.secrets_masker import redact, should_hide_value_for_key
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.configuration import conf
from airflow.sdk.definitions._internal.abstractoperator import AbstractOperator
from airflow.sdk.definitions._internal.mixins import ResolveMixin
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.taskgroup import MappedTaskGroup
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
    TaskNotFound,
)
from airflow.sdk.execution_time.xcom import XCom
from airflow.sdk.log import mask_secret
from airflow.sdk.serde import deserialize as serde_deserialize
from airflow.sdk.serde import serialize as serde_serialize
from airflow.triggers.base import (
    BaseTaskEndEvent,
    BaseTrigger,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

# How an operator is told that its trigger failed (airflow/models/trigger.py, ``submit_failure``).
DEFERRAL_FAILED = TRIGGER_FAIL_REPR
TRIGGER_FAILURE = TriggerFailureReason.TRIGGER_FAILURE.value
TRIGGER_TIMEOUT = TriggerFailureReason.TRIGGER_TIMEOUT.value
