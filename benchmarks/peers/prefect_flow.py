"""Tasks that are submitted while a generator gives their arguments, with Prefect."""

import json
import sys
import time

from prefect import flow, task

begun: list[float] = []


@task
def item(number: int, seconds: float) -> int:
    begun.append(time.time())
    time.sleep(seconds)
    return number


@flow
def nothing(count: int) -> int:
    return len([future.result() for future in [item.submit(number, 0) for number in range(count)]])


@flow
def pages(count: int, items: int, page_seconds: float, item_seconds: float) -> int:
    futures = []
    for page in range(count):
        time.sleep(page_seconds)
        futures += [item.submit(page * items + number, item_seconds) for number in range(items)]
    return len([future.result() for future in futures])


if __name__ == "__main__":
    nothing(1)  # its server is started
    begun.clear()
    asked = time.time()
    {"nothing": nothing, "pages": pages}[sys.argv[1]](**json.loads(sys.argv[2]))
    print()
    print(json.dumps({"first_item": begun[0] - asked, "all_done": time.time() - asked}))
