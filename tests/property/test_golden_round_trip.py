"""Golden files survive being read and written, every float to the last bit; array files read as they were written."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from intermodal.errors import IntermodalError
from intermodal.golden.cases import GoldenCase, GoldenFile, parse_golden
from intermodal.golden.npy import read_npy

numbers = st.floats(allow_nan=False, allow_infinity=False)
values = st.lists(st.one_of(numbers, st.none(), st.integers(), st.text(st.characters(exclude_categories=["Cs"]))))


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)


@given(values, st.text(st.characters(exclude_categories=["Cs"])), st.one_of(st.none(), numbers))
def test_round_trip_is_exact(data: list[Any], name: str, rtol: float | None) -> None:
    body = {"inputs": [{"name": name, "datatype": "FP64", "shape": [len(data)], "data": data}]}
    golden = GoldenFile("training", {"python": "3.11"}, (GoldenCase(name, body, {"outputs": []}, rtol),))
    written = golden.to_bytes()
    again = parse_golden(written)
    assert again.to_bytes() == written
    back = again.cases[0].request["inputs"][0]["data"]
    assert [bits(v) for v in back] == [bits(v) for v in data]
    assert again.cases[0].rtol == rtol
    assert json.loads(written)["cases"][0]["name"] == name


@given(st.lists(st.floats(width=32, allow_infinity=False)), st.sampled_from(["<", ">"]), st.sampled_from([1, 2, 3]))
def test_npy_of_floats(data: list[float], order: str, version: int) -> None:
    header = f"{{'descr': '{order}f4', 'fortran_order': False, 'shape': ({len(data)},), }}\n".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    content = b"\x93NUMPY" + bytes([version, 0]) + length + header + struct.pack(f"{order}{len(data)}f", *data)
    read = read_npy(content, "x.npy")
    assert (read.datatype, read.shape) == ("FP32", (len(data),))
    assert [bits(v) for v in read.data] == [bits(None if math.isnan(v) else v) for v in data]


@given(st.binary(max_size=200), st.booleans())
def test_npy_never_breaks_otherwise_than_it_says(data: bytes, with_magic: bool) -> None:
    try:
        read_npy((b"\x93NUMPY\x01\x00" if with_magic else b"") + data, "x.npy")
    except IntermodalError as error:
        assert error.exit_code == 2
