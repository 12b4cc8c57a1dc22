"""What Airflow's provider manager asks for (entry point ``apache_airflow_provider``)."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    from deferred_expand import __version__
    from deferred_expand.settings_reference import OPTIONS, SECTION

    return {
        "package-name": "deferred-expand",
        "name": "Deferred expand",
        "description": "Stream a paged source into mapped task instances, page by page.",
        "versions": [__version__],
        "integrations": [],
        "task-decorators": [
            {"name": "stream", "class-name": "deferred_expand.operators.task_stream.stream"},
        ],
        "cli": ["deferred_expand.cli.definition.get_commands"],
        "config": {
            SECTION: {
                "description": "How streams are walked and their batches committed.",
                "options": OPTIONS,
            }
        },
    }
