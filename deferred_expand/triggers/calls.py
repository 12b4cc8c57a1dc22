"""Calls that block, made from the triggerer's event loop."""

from __future__ import annotations

from deferred_expand.walking.threads import Threads

shared_threads = Threads("deferred_expand", 16)  # for calls on Airflow, and XCom backends that block
call_in_thread = shared_threads.run
