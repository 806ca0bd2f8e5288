"""Attack list 5: tensors that lie about their shape, size, type or names."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import Served, echo_root, infer_body, serve

from intermodal_server.contract import DATATYPES
from intermodal_server.front.limits import Refusal
from intermodal_server.front.v2 import parse_request

INFER = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root)) as running:
        worker = running.children("worker")
        yield running
        assert running.infer([1]).json["outputs"][0]["data"] == [2.0]
        assert running.children("worker") == worker


def refused(server: Served, body: Any, headers: dict[str, str] | None = None) -> str:
    reply = server.request("POST", INFER, body, headers)
    assert reply.status == 400, reply.body
    return str(reply.json["error"])


def one(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0], **changes}]}


@pytest.mark.parametrize(
    "shape",
    [[2**40, 2**40], [2**32, 2**32], [2**62, 4], [-1], [-1, -1], [0], [2], [1, 1], [], [2**63], [10**400], [1] * 1000,
     [1.5], ["1"], [None], [True, True], [[1]], "1", None, {"a": 1}],
)  # fmt: skip
def test_shape_that_no_data_fills_is_refused(server: Served, shape: Any) -> None:
    refused(server, one(shape=shape))


@pytest.mark.parametrize("datatype", ["", "FP8", "fp64", "BF16", "OBJECT", "a" * 100_000, 7, None, "INT64", "BYTES"])
def test_datatype_unknown_or_not_the_models_is_refused(server: Served, datatype: Any) -> None:
    assert len(refused(server, one(datatype=datatype))) < 400


@pytest.mark.parametrize("data", [[], [1, 2], ["1"], [True], [[1]], {}, "1", 1, None, [{}], [10**400]])
def test_data_that_is_not_the_shapes_is_refused(server: Served, data: Any) -> None:
    refused(server, one(data=data))


def test_missing_and_extra_inputs_are_named(server: Served) -> None:
    assert refused(server, {"inputs": []}) == "input 'x' is missing"
    extra = infer_body([1])
    extra["inputs"].append({"name": "z" * 1000, "datatype": "FP64", "shape": [1], "data": [1]})
    assert refused(server, extra).startswith("the model has no input 'zzz")


def binary(size: Any, body: bytes, length: str | None = None, **changes: Any) -> tuple[bytes, dict[str, str]]:
    document = {"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": size}, **changes}
    head = json.dumps({"inputs": [document]}).encode()
    return head + body, {"Inference-Header-Content-Length": str(len(head)) if length is None else length}


@pytest.mark.parametrize(
    ("size", "body"),
    [(8, b"\0" * 7), (8, b"\0" * 9), (7, b"\0" * 7), (16, b"\0" * 16), (-8, b"\0" * 8), (2**70, b"\0" * 8), (8, b""),
     ("8", b"\0" * 8), (8.0, b"\0" * 8), (True, b"\0"), (None, b"\0" * 8), (0, b"\0" * 8), (0, b"")],
)  # fmt: skip
def test_binary_size_that_does_not_fit_is_refused(server: Served, size: Any, body: bytes) -> None:
    refused(server, *binary(size, body))


@pytest.mark.parametrize("length", ["-1", "99999", "abc", "", "1e3", " 5", "0", "³", "9" * 50, "0x10"])
def test_header_length_outside_the_body_is_refused(server: Served, length: str) -> None:
    body, headers = binary(8, b"\0" * 8, length)
    headers["Inference-Header-Content-Length"] = length.encode("utf-8").decode("latin-1")
    refused(server, body, headers)


def test_binary_and_data_together_and_overlapping_inputs_are_refused(server: Served) -> None:
    refused(server, *binary(8, b"\0" * 8, data=[1.0]))
    item = {"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [item, {**item, "name": "z"}]}).encode()
    refused(server, head + b"\0" * 8, {"Inference-Header-Content-Length": str(len(head))})


@pytest.mark.parametrize(
    "body", [b"\x05\0\0\0abc", b"\xff\xff\xff\xff", b"\xff\xff\xff\xffabc", b"\x01\0", b"\0\0\0\0\0\0\0\0", b""]
)
def test_length_prefix_beyond_the_buffer_is_refused(server: Served, body: bytes) -> None:
    refused(server, *binary(len(body), body, datatype="BYTES"))


def test_nan_payloads_pass_through_unchanged(server: Served) -> None:
    payload = struct.pack("<Q", 0x7FF8DEADBEEF0001)
    body, headers = binary(8, payload)
    reply = server.request("POST", INFER, body, headers)
    assert reply.status == 200 and reply.json["outputs"][0]["data"] == [None]


def test_outputs_requested_in_masses_twice_or_unknown_are_refused(server: Served) -> None:
    assert "1024" in refused(server, infer_body([1], outputs=[{"name": f"o{i}"} for i in range(100_000)]))
    assert refused(server, infer_body([1], outputs=[{"name": "y"}, {"name": "y"}])) == "output 'y' is requested twice"
    assert refused(server, infer_body([1], outputs=[{"name": "q"}])) == "the model has no output 'q'"
    assert "classification" in refused(
        server, infer_body([1], outputs=[{"name": "y", "parameters": {"classification": "3"}}])
    )
    refused(server, infer_body([1], outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]))


def test_shared_memory_is_not_offered(server: Served) -> None:
    item = {"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"shared_memory_region": "r"}}
    assert refused(server, {"inputs": [item]}) == "input 'x' has no data"
    for kind in ("systemsharedmemory", "cudasharedmemory"):
        assert server.request("POST", f"/v2/{kind}/region/r/register", b"{}").status == 404


def test_overlong_id_is_refused(server: Served) -> None:
    refused(server, infer_body([1], id="a" * 257))
    refused(server, infer_body([1], id=7))


text = st.text('x0ü\n"', max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(text, children, max_size=3),
    max_leaves=12,
)
documents = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y", ""]) | json_values,
        "datatype": st.sampled_from(sorted(DATATYPES)) | json_values,
        "shape": st.lists(st.integers(-2, 4), max_size=3) | json_values,
    },
    optional={
        "data": json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | json_values})
        | json_values,
    },
)


@settings(max_examples=400)
@given(st.lists(documents, max_size=3), st.binary(max_size=40), st.none() | st.integers(-3, 3), st.booleans())
def test_any_request_is_parsed_or_refused_with_400(
    inputs: list[Any], tail: bytes, shift: int | None, with_tail: bool
) -> None:
    head = json.dumps({"inputs": inputs}).encode()
    body = head + tail if with_tail else head
    length = None if shift is None else str(len(head) + shift)
    try:
        request = parse_request(body, length)
    except Refusal as refusal:
        assert refusal.status == 400 and len(refusal.message) <= 400
    else:
        assert all(tensor.datatype in DATATYPES for tensor in request.inputs)
