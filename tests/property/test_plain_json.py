"""Arguments come out of their seal as they went in, and data in them names no code."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deferred_expand.airflow_internals.sdk import TriggerEvent
from deferred_expand.sources.arguments import pack, unpack
from deferred_expand.sources.chain import Hop
from deferred_expand.sources.plain_json import read, write
from deferred_expand.sources.sealing import seal, unseal
from tests.e2e import sources

# What this package, or Airflow's serde, has ever given a meaning.
HOSTILE = [
    "deferred_expand.import", "named", "arguments", "data", "objects", "tuples", "__type", "__var",
    "__classname__", "__version__", "__data__", "__source", "__extended_type__",
]  # fmt: skip
CODE = ["os:system", "os.system", "builtins.tuple", "datetime.datetime", "subprocess.Popen"]

texts = st.sampled_from([*HOSTILE, *CODE]) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
data = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.sampled_from([
    datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc), timedelta(hours=1), (1, "b"), ((),), sources.numbers,
    sources.is_even, TriggerEvent,
])  # fmt: skip
anything = st.recursive(
    scalars | objects,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


@given(st.dictionaries(texts, data))
def test_any_json_comes_back_as_it_was(arguments: dict[str, Any]) -> None:
    assert read(write(arguments)) == arguments
    assert unseal(seal(arguments)) == arguments
    assert unpack(unseal(seal(pack(arguments)))) == arguments


@given(st.dictionaries(texts, anything))
def test_so_do_functions_classes_tuples_and_what_serde_knows(arguments: dict[str, Any]) -> None:
    assert unpack(unseal(seal(pack(arguments)))) == arguments
    assert unpack(pack(arguments)) == arguments, "in dag.test() nothing is sealed"


@given(data)
def test_data_names_no_code(value: Any) -> None:
    packed = pack({"value": value})
    assert packed["named"] == []
    assert json.loads(write(packed))["objects"] == []


@given(st.dictionaries(texts, data), data)
def test_nor_does_what_a_provider_keeps_between_two_hops(arguments: dict[str, Any], value: Any) -> None:
    hop = Hop(("some.Trigger", arguments), "execute_complete", {"page": value}, 1.5, {"kept": value})
    assert Hop.from_cursor(json.loads(json.dumps(hop.to_cursor()))) == hop
