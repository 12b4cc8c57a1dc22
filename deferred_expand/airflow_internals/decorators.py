"""What ``@task`` decorators are made of."""

from __future__ import annotations

from airflow.sdk.bases.decorator import DecoratedOperator
from airflow.sdk.bases.decorator import _TaskDecorator as TaskDecorator
