"""A loop: three guesses at a time, until one of them is good enough, or there were enough of them."""

from __future__ import annotations

import shop_api
from airflow.sdk import DAG, task

from deferred_expand import DeferredExpandOperator

with DAG("example_random_search", schedule=None, tags=["deferred_expand"]):
    guesses = DeferredExpandOperator(
        task_id="guesses", source=shop_api.guess_the_price, source_kwargs={"good_enough": 0.9, "at_most": 12}
    )

    @task
    def sell_at(price: float) -> float:
        """How good the price was."""
        return 1 - abs(price - 0.6)

    sell_at.expand(price=guesses.output)
