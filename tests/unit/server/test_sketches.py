"""Predictions are counted exactly, whatever the datatype, and never without bound."""

from __future__ import annotations

import json
import random
import struct
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exposed import read_metrics

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe import sketches as module
from intermodal_server.front.observe.exposition import render
from intermodal_server.front.observe.sketches import MAX_CLASSES, MAX_ROWS, OTHER, Sketches
from intermodal_server.tensors import Tensor, encode


def answered(*outputs: Tensor, traffic: str = "live") -> Exchange:
    exchange = Exchange.own(traffic)
    exchange.outputs = outputs
    return exchange


def tensor(values: list[Any], datatype: str, shape: tuple[int, ...] | None = None, name: str = "y") -> Tensor:
    return Tensor(name, datatype, shape or (len(values),), encode(values, datatype, name))


def outputs(found: Sketches) -> list[dict[str, Any]]:
    document: list[dict[str, Any]] = json.loads(b"".join(found.pieces()))
    return document


def counted(found: Sketches, traffic: str = "live", name: str = "y") -> dict[str, Any]:
    found.flush()
    (output,) = [output for output in outputs(found) if output["name"] == name]
    sketch: dict[str, Any] = output["traffic"][traffic]
    return sketch


def test_strings_are_classes_and_traffic_is_kept_apart() -> None:
    found = Sketches()
    found.ended(answered(tensor(["cat", "dog", "cat", None], "BYTES")), 200)
    found.ended(answered(tensor(["cat"], "BYTES"), traffic="mirror"), 200)
    found.ended(answered(tensor(["cow"], "BYTES")), 500)
    live, mirror = counted(found), counted(found, "mirror")
    assert (live["rows"], live["missing"], live["classes"]) == (4, 1, {"cat": 2, "dog": 1})
    assert mirror["classes"] == {"cat": 1}


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64"])
def test_integers_are_classes_and_numbers(datatype: str) -> None:
    found = Sketches()
    found.ended(answered(tensor([7, 3, 7], datatype)), 200)
    sketch = counted(found)
    assert sketch["classes"] == {"7": 2, "3": 1}
    assert (sketch["numbers"]["count"], sketch["numbers"]["sum"]) == (3, 17)


def test_booleans_are_classes() -> None:
    found = Sketches()
    found.ended(answered(tensor([True, False, True], "BOOL")), 200)
    assert counted(found)["classes"] == {"true": 2, "false": 1}


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_floats_are_numbers_with_nan_and_infinity_beside(datatype: str) -> None:
    found = Sketches()
    code = {"FP16": "<5e", "FP32": "<5f", "FP64": "<5d"}[datatype]
    data = struct.pack(code, 0.5, float("nan"), float("inf"), -2.0, float("-inf"))
    found.ended(answered(Tensor("y", datatype, (5,), data)), 200)
    numbers = counted(found)["numbers"]
    assert (numbers["count"], numbers["nan"], numbers["positive_infinity"], numbers["negative_infinity"]) == (
        2,
        1,
        1,
        1,
    )
    assert (numbers["smallest"], numbers["largest"]) == (-2.0, 0.5)


def test_rows_of_floats_are_one_prediction_each_by_their_largest() -> None:
    found = Sketches()
    rows = [0.1, 0.7, 0.2, 0.9, 0.1, 0.0, float("nan"), 1.0, 0.0]
    found.ended(answered(tensor(rows, "FP64", (3, 3))), 200)
    sketch = counted(found)
    assert sketch["classes"] == {"1": 1, "0": 1}
    assert (sketch["missing"], sketch["numbers"]["nan"], sketch["numbers"]["count"]) == (1, 1, 2)
    assert (sketch["numbers"]["smallest"], sketch["numbers"]["largest"]) == (0.7, 0.9)


def test_one_column_is_as_a_list() -> None:
    found = Sketches()
    found.ended(answered(tensor([1.0, 2.0], "FP32", (2, 1))), 200)
    assert counted(found)["classes"] == {}
    assert counted(found)["numbers"]["count"] == 2


def test_what_is_beyond_the_bounds_is_counted_as_unseen() -> None:
    found = Sketches()
    found.ended(answered(tensor([1.0] * (MAX_ROWS + 10), "FP64")), 200)
    found.ended(answered(tensor([b"a"] * (MAX_ROWS + 5), "BYTES", name="s")), 200)
    found.ended(answered(tensor([0.0] * 8, "FP32", (2, 2, 2), name="cube")), 200)
    found.ended(answered(tensor([0.0] * 20000, "FP32", (1, 20000), name="wide")), 200)
    found.ended(answered(tensor([], "FP32", (5, 0), name="empty")), 200)
    for name, rows, unseen in (("y", 1034, 10), ("s", 1029, 5), ("cube", 2, 2), ("wide", 1, 1), ("empty", 5, 5)):
        sketch = counted(found, name=name)
        assert (sketch["rows"], sketch["unseen_rows"]) == (rows, unseen), name
    assert counted(found, name="s")["classes"] == {"a": MAX_ROWS}
    assert found.failed == 0


def test_large_answers_are_cut_before_they_wait() -> None:
    found = Sketches()
    big = tensor(["x" * 100] * 2000, "BYTES")
    found.ended(answered(big), 200)
    found.ended(answered(Tensor("y", "BYTES", big.shape, memoryview(bytes(big.data)))), 200)
    assert counted(found)["classes"] == {"x" * 100: 2 * MAX_ROWS}
    assert counted(found)["unseen_rows"] == 2 * (2000 - MAX_ROWS)


def test_nulls_of_a_large_answer_are_missing_up_to_the_bound() -> None:
    found = Sketches()
    found.ended(answered(tensor([None, "x" * 100] * 1000, "BYTES")), 200)
    sketch = counted(found)
    assert (sketch["missing"], sketch["classes"]) == (MAX_ROWS // 2, {"x" * 100: MAX_ROWS // 2})


def test_views_do_not_keep_the_batch_alive() -> None:
    found = Sketches()
    batch = bytearray(encode([1.0, 2.0, 3.0], "FP64", "y"))
    found.ended(answered(Tensor("y", "FP64", (1,), memoryview(batch)[8:16])), 200)
    batch[8:16] = encode([9.0], "FP64", "y")
    assert counted(found)["numbers"]["sum"] == 2.0


def test_a_hundred_thousand_hostile_classes_are_sixty_four_and_other() -> None:
    found = Sketches()
    names = ['a"} 1\n# EOF\n', "b\\", "c\nd", "é", "(other)", '",class="x', *map(str, range(100_000))]
    for start in range(0, len(names), 500):
        found.ended(answered(tensor(names[start : start + 500], "BYTES")), 200)
    sketch = counted(found)
    assert list(sketch["classes"]) == names[:MAX_CLASSES]
    assert sketch["other"] == len(names) - MAX_CLASSES
    assert sum(sketch["classes"].values()) + sketch["other"] == len(names)
    for openmetrics in (False, True):
        page = read_metrics("".join(render(found.families(), openmetrics=openmetrics)), openmetrics=openmetrics)
        labels = page.labelled("intermodal_predictions_total")
        assert [label["class"] for label in labels] == names[:MAX_CLASSES]  # "(other)" is one of them here
        assert page.value("intermodal_predictions_total", **{"class": OTHER}) == 1 + sketch["other"]
        assert page.value("intermodal_predictions_total", **{"class": 'a"} 1\n# EOF\n'}) == 1


def test_long_and_broken_names_take_no_place() -> None:
    found = Sketches()
    found.ended(answered(tensor(["x" * 129, "ok", b"\xff\xfe"], "BYTES")), 200)
    sketch = counted(found)
    assert sketch["other"] == 1
    assert sketch["classes"] == {"ok": 1, "\\xff\\xfe": 1}


def test_a_page_is_of_one_moment_and_outlives_what_comes_meanwhile() -> None:
    found = Sketches()
    found.ended(answered(tensor([1.0], "FP64"), tensor(["a"], "BYTES", name="s")), 200)
    found.flush()
    page, families = found.pieces(), found.families()
    begun, samples = next(page), iter(next(families).samples)
    assert next(samples)[2] == 1
    for number in range(5):
        later = answered(tensor([2.0], "FP64"), tensor(["b"], "BYTES", name=f"s{number}"), traffic=f"t{number}")
        found.ended(later, 200)
    found.flush()
    (_, other) = json.loads(b"".join([begun, *page]))
    assert other["traffic"] == {"live": {**counted(found, name="s"), "rows": 1}}
    assert list(samples) == []
    assert all(list(family.samples) for family in families)


def test_joined_buckets_begin_another_era() -> None:
    """Whoever subtracts counts of before must not, once a count may have moved to a neighbour."""
    found = Sketches()
    found.ended(answered(tensor([1.0, 2.0], "FP64")), 200)
    found.flush()
    assert found.era == ""
    for power in range(-500, 500):
        found.ended(answered(tensor([2.0**power, 1.37 * 2.0**power, 1.71 * 2.0**power], "FP64")), 200)
    found.flush()
    assert counted(found)["numbers"]["bits"] < 6
    assert found.era == f"-{6 - counted(found)['numbers']['bits']}"


def test_outputs_that_contradict_themselves_are_failures_and_nothing_more() -> None:
    found = Sketches()
    found.ended(answered(Tensor("y", "FP64", (4,), b"\0" * 24)), 200)
    found.ended(answered(Tensor("y", "FP64", (4,), b"\0" * 23)), 200)
    found.ended(answered(Tensor("s", "BYTES", (1,), b"\xf0\xff\xff\x0fabc")), 200)
    found.ended(answered(Tensor("s", "BYTES", (1,), b"\x01")), 200)
    found.ended(answered(Tensor("z", "FP64", (1,), encode([1.0], "FP64", "z"))), 200)
    found.flush()
    assert found.failed == 4
    assert counted(found, name="z")["numbers"]["count"] == 1


def test_a_model_that_makes_up_outputs_does_not_fill_the_memory() -> None:
    found = Sketches()
    for number in range(1000):
        found.ended(answered(tensor([1.0], "FP64", name=f"y{number}")), 200)
    found.flush()
    assert len(outputs(found)) == module.MAX_OUTPUTS
    assert found.failed == 1000 - module.MAX_OUTPUTS


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["live", "mirror"]), st.lists(st.sampled_from(["a", "b", "", "ä", None]), max_size=6)
        ),
        max_size=40,
    ),
    st.integers(0, 5),
)
@settings(deadline=None, max_examples=60)
def test_counts_are_those_of_a_plain_counter_however_often_somebody_looks(
    answers: list[tuple[str, list[str | None]]], seed: int
) -> None:
    found, looks = Sketches(), random.Random(seed)
    wanted: dict[str, Counter[str | None]] = {}
    for traffic, values in answers:
        found.ended(answered(tensor(values, "BYTES"), traffic=traffic), 200)
        wanted.setdefault(traffic, Counter()).update(values)
        if looks.random() < 0.2:
            found.flush()
    for traffic, counts in wanted.items():
        sketch = counted(found, traffic)
        assert sketch["missing"] == counts.pop(None, 0)
        assert sketch["classes"] == dict(counts)


def test_waiting_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Sketches()
    flushed: list[int] = []
    real = found.flush

    def flush() -> None:
        flushed.append(1)
        real()

    monkeypatch.setattr(found, "flush", flush)
    for _ in range(module.MAX_PENDING * 3):
        found.ended(answered(tensor([1.0], "FP64")), 200)
    assert len(flushed) == 3
    for _ in range(20):
        found.ended(answered(tensor([1.0] * 1000, "FP64")), 200)
    assert len(flushed) == 3 + 20 * 8000 // (module.MAX_PENDING_BYTES + 8000)
