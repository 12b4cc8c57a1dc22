"""Dynamic outputs and an op for each of them, with Dagster."""

import json
import os
import sys
import time
from pathlib import Path

from dagster import DagsterInstance, DynamicOut, DynamicOutput, execute_job, job, op, reconstructable

CASE = json.loads(os.environ.get("CASE", "{}"))
NOTES = Path(os.environ.get("NOTES", "notes"))


@op(out=DynamicOut(int))
def numbers():
    for page in range(CASE["count"]):
        time.sleep(CASE["page_seconds"])
        for number in range(page * CASE["items"], (page + 1) * CASE["items"]):
            yield DynamicOutput(number, mapping_key=str(number))


@op
def item(number: int) -> int:
    with NOTES.open("a") as notes:
        notes.write(f"{time.time()}\n")
    time.sleep(CASE["item_seconds"])
    return number


@job
def everything():
    numbers().map(item)


if __name__ == "__main__":
    case = json.loads(sys.argv[2])
    if sys.argv[1] == "nothing":
        case = {"count": 1, "items": case["count"], "page_seconds": 0, "item_seconds": 0}
    os.environ |= {"CASE": json.dumps(case), "NOTES": f"{os.getcwd()}/notes_{sys.argv[1]}"}
    asked = time.time()
    with DagsterInstance.get() as instance:
        result = execute_job(reconstructable(everything), instance=instance)
    done = time.time()
    assert result.success
    begun = Path(os.environ["NOTES"]).read_text().split()
    print()
    print(json.dumps({"first_item": float(begun[0]) - asked, "all_done": done - asked}))
