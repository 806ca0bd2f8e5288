"""Values and bytes: the round trip for every datatype, and what is refused."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal_server.contract import DATATYPES
from intermodal_server.tensors import (
    Tensor,
    TensorError,
    check_binary,
    decode,
    elements,
    encode,
    flatten,
    from_document,
    json_values,
    nest,
    to_document,
    without_nulls,
)


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BOOL":
        return st.booleans()
    if datatype == "BYTES":
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.none()
    if datatype.startswith("FP"):
        return st.floats(allow_nan=False, allow_infinity=False, width=int(datatype[2:]))  # type: ignore[arg-type]
    bits = int(datatype.lstrip("UINT"))
    low, high = (0, 2**bits - 1) if datatype[0] == "U" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(low, high)


@given(st.data(), st.sampled_from(sorted(DATATYPES)))
def test_values_survive_the_round_trip_through_bytes_and_documents(data: st.DataObject, datatype: str) -> None:
    values = data.draw(st.lists(values_of(datatype), max_size=30))
    raw = encode(values, datatype, "x")
    if DATATYPES[datatype]:
        assert len(raw) == DATATYPES[datatype] * len(values)
    tensor = Tensor("x", datatype, (len(values),), raw)
    assert json_values(tensor) == values
    assert from_document(to_document(tensor)) == tensor


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_nested_values_flatten_to_what_was_nested(shape: list[int]) -> None:
    values = list(range(elements(shape)))
    if 0 in shape[:-1]:
        return  # an empty outer axis hides the inner ones
    assert flatten(nest(values, shape), shape, "x") == values
    assert flatten(values, shape, "x") == values


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP64", [True]), ("FP64", ["1"]), ("FP64", [[1.0]]), ("INT64", [1.0]), ("INT64", [None]), ("INT64", [True]),
        ("INT64", [2**63]), ("UINT8", [256]), ("UINT8", [-1]), ("INT8", [128]), ("FP32", [1e39]), ("FP16", [70000.0]),
        ("FP64", [10**400]), ("BOOL", [1]), ("BOOL", [None]), ("BYTES", [1]), ("BYTES", ["\ud800"]), ("BYTES", [[]]),
    ],
)  # fmt: skip
def test_value_of_another_kind_is_refused(datatype: str, values: list[Any]) -> None:
    with pytest.raises(TensorError, match="'x'"):
        encode(values, datatype, "x")


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ([1, 2, 3], [2]), ([], [1]), ([[1, 2], [3]], [2, 2]), ([[1, 2], 3], [2, 2]), ([[1, 2]], [2, 1]), (5, [1]),
        ({"a": 1}, [1]), ([[1], [2], [3]], [2, 1]), ([[[1]]], [1, 1]), ([1], [2**40, 2**40]),
    ],
)  # fmt: skip
def test_values_that_do_not_fill_their_shape_are_refused(values: Any, shape: list[int]) -> None:
    with pytest.raises(TensorError):
        encode(flatten(values, shape, "x"), "INT64", "x")


def test_null_is_nan_in_floats_and_none_in_bytes() -> None:
    assert math.isnan(decode(encode([None], "FP32", "x"), "FP32", "x")[0])
    tensor = Tensor("x", "BYTES", (2,), encode(["a", None], "BYTES", "x"))
    assert json_values(tensor) == ["a", None]
    assert without_nulls(tensor) == struct.pack("<I", 1) + b"a" + struct.pack("<I", 0)
    assert to_document(Tensor("x", "FP64", (3,), struct.pack("<3d", 1, math.nan, math.inf)))["data"] == [1, None, None]


def test_fp32_keeps_its_bits_through_json() -> None:
    raw = struct.pack("<3f", 0.1, 1e-45, 3.4028234e38)
    assert encode(json_values(Tensor("x", "FP32", (3,), raw)), "FP32", "x") == raw


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP64", (2,), b"\0" * 8),
        ("FP64", (1,), b"\0" * 9),
        ("FP64", (2**40, 2**40), b""),
        ("BOOL", (1,), b"\2"),
        ("BYTES", (1,), b"\5\0\0\0abc"),
        ("BYTES", (1,), b"\5\0"),
        ("BYTES", (1,), b"\xff\xff\xff\xff"),
        ("BYTES", (2,), b"\0\0\0\0"),
    ],
)
def test_binary_that_is_not_what_the_shape_says_is_refused(datatype: str, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(TensorError):
        check_binary(Tensor("x", datatype, shape, data))


def test_bytes_that_are_no_text_cannot_go_into_json() -> None:
    with pytest.raises(TensorError, match="binary_data"):
        json_values(Tensor("x", "BYTES", (1,), encode([b"\xff"], "BYTES", "x")))


@pytest.mark.parametrize(
    "document",
    [
        {}, {"name": "x", "datatype": "FP64", "shape": [1]}, [],
        {"name": "x", "datatype": "FP8", "shape": [1], "data": [1]},
        {"name": 1, "datatype": "FP64", "shape": [1], "data": [1]},
        {"name": "x", "datatype": "FP64", "shape": [-1], "data": [1]},
        {"name": "x", "datatype": "FP64", "shape": [True], "data": [1]},
    ],
)  # fmt: skip
def test_document_that_is_no_tensor_is_refused(document: Any) -> None:
    with pytest.raises(TensorError):
        from_document(document)
