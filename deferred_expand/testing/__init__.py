"""For tests and demonstrations: a check for source adapters, and a real Airflow on this machine."""

from deferred_expand.testing.adapters import ContractBroken, check_adapter

__all__ = ["ContractBroken", "check_adapter"]
