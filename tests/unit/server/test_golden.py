"""Comparing answers: what counts as a difference, and how it reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal_server.contract import Signature, TensorSpec
from intermodal_server.golden import TOLERANCES, Difference, compare, describe, summarize


def answer(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"outputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


def one(expected: Any, actual: Any, datatype: str = "FP64", **tolerance: float) -> list[Difference]:
    return compare("c", answer("y", datatype, [1], [expected]), answer("y", datatype, [1], [actual]), **tolerance)


def test_equal_answers_have_no_difference_whatever_else_the_body_says() -> None:
    recorded = {**answer("y", "INT64", [2], [1, 2]), "id": "a", "model_version": "1"}
    assert compare("c", recorded, {**answer("y", "INT64", [2], [1, 2]), "id": "b", "model_version": "2"}) == []


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "FP16"])
def test_default_tolerance_is_that_of_the_datatype(datatype: str) -> None:
    rtol, atol = TOLERANCES[datatype]
    assert one(100.0, 100.0 + 0.9 * (atol + rtol * 100), datatype) == []
    assert len(one(100.0, 100.0 + 1.1 * (atol + rtol * 100), datatype)) == 1
    assert one(0.0, 0.9 * atol, datatype) == []


def test_given_tolerance_wins_over_the_default_and_zero_is_exact() -> None:
    assert one(1.0, 1.4, rtol=0.5) == []
    assert len(one(1.0, 1.0 + 1e-12, rtol=0, atol=0)) == 1


@pytest.mark.parametrize(
    ("datatype", "expected", "actual"),
    [("INT64", 3, 4), ("BYTES", "cat", "dog"), ("BOOL", True, False), ("INT64", 1, True), ("BYTES", "1", 1)],
)
def test_labels_are_exact_whatever_the_tolerance(datatype: str, expected: Any, actual: Any) -> None:
    (difference,) = one(expected, actual, datatype, rtol=1e9, atol=1e9)
    assert (difference.expected, difference.actual) == (expected, actual)


def test_null_and_nan_are_one_thing_and_differ_from_numbers() -> None:
    assert one(None, math.nan) == [] and one(math.nan, None) == [] and one(None, None) == []
    assert len(one(None, 0.0)) == 1 and len(one(0.0, None)) == 1
    assert one(None, None, "BYTES") == [] and len(one("", None, "BYTES")) == 1


def test_infinity_equals_itself_only() -> None:
    assert one(math.inf, math.inf) == []
    assert len(one(math.inf, -math.inf)) == 1 and len(one(1.0, math.inf)) == 1 and len(one(math.inf, 1.0)) == 1


def test_place_is_the_index_in_the_shape_for_flat_and_nested_data() -> None:
    recorded = answer("p", "FP64", [2, 3], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    now = answer("p", "FP64", [2, 3], [[0.0, 0.1, 0.2], [0.3, 0.9, 0.5]])
    (difference,) = compare("rows", recorded, now)
    assert difference.place == (1, 1)
    assert difference.absolute == pytest.approx(0.5) and difference.relative == pytest.approx(1.25)


def test_missing_extra_shape_and_datatype() -> None:
    recorded = answer("a", "FP64", [1], [1.0])
    kinds = [d.error for d in compare("c", recorded, answer("b", "FP64", [1], [1.0]))]
    assert kinds == ["missing", "extra"]
    (shape,) = compare("c", recorded, answer("a", "FP64", [1, 1], [1.0]))
    assert (shape.error, shape.expected, shape.actual) == ("shape", [1], [1, 1])
    (datatype,) = compare("c", recorded, answer("a", "FP32", [1], [1.0]))
    assert (datatype.error, datatype.expected, datatype.actual) == ("datatype", "FP64", "FP32")
    (length,) = compare("c", recorded, answer("a", "FP64", [1], [1.0, 2.0]))
    assert (length.error, length.actual) == ("shape", "2 values")


def test_error_instead_of_an_answer_is_one_difference() -> None:
    (difference,) = compare("c", answer("a", "FP64", [1], [1.0]), {"error": "the model failed"})
    assert describe([difference]) == ["case 'c': the model did not answer: the model failed"]


def test_signature_holds_the_answer_to_its_datatypes() -> None:
    body = answer("a", "FP32", [1], [1.0])
    signature = Signature((), (TensorSpec("a", "FP64", (-1,)),))
    (difference,) = compare("c", body, body, signature=signature)
    assert (difference.error, difference.expected) == ("datatype", "FP64")


def test_description_names_everything_and_the_worst_beyond_the_limit() -> None:
    recorded = answer("p", "FP64", [30], [1.0] * 30)
    now = answer("p", "FP64", [30], [1.0 + (place + 1) / 10 for place in range(30)])
    differences = compare("case 7", recorded, now)
    lines = describe(differences, limit=2)
    assert lines[0] == "case 'case 7', output 'p' at [0]: expected 1.0, got 1.1 (off by 0.1, relative 0.1)"
    assert lines[2] == "… and 28 more"
    assert "worst of 30 in 'p'" in lines[3] and "at [29]" in lines[3] and len(lines) == 4
    (summary,) = summarize(differences)
    assert (summary.output, summary.count, summary.worst.place) == ("p", 30, (29,))


def test_long_strings_are_cut_in_descriptions() -> None:
    (line,) = describe(one("a" * 5000, "b", "BYTES"))
    assert len(line) < 200


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.none()


@given(st.lists(numbers, max_size=20), st.sampled_from(["FP64", "FP32", "FP16"]))
def test_every_answer_agrees_with_itself(values: list[float | None], datatype: str) -> None:
    body = answer("y", datatype, [len(values)], values)
    assert compare("c", body, body, rtol=0, atol=0) == []


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_differences_are_exactly_the_pairs_beyond_the_tolerance(
    pairs: list[tuple[float, float]], rtol: float, atol: float
) -> None:
    shape = [len(pairs)]
    recorded, now = (answer("y", "FP64", shape, [pair[i] for pair in pairs]) for i in (0, 1))
    found = {d.place[0] for d in compare("c", recorded, now, rtol=rtol, atol=atol)}
    assert found == {i for i, (e, a) in enumerate(pairs) if abs(a - e) > atol + rtol * abs(e)}
