"""The walk over a large message agrees with protobuf: what that reads, and no more than it reads, passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.grpc_clients import import_grpc

import_grpc()
from google.protobuf.message import DecodeError  # noqa: E402
from google.protobuf.unknown_fields import UnknownFieldSet  # noqa: E402

from intermodal_server.front.grpc import wire  # noqa: E402
from intermodal_server.front.grpc.messages import message  # noqa: E402
from intermodal_server.front.limits import Refusal  # noqa: E402

Request = message("inference.ModelInferRequest")
GROUP = 3
NOT_OF_ITS_KIND = "the message is not of its kind"
texts = st.text(st.characters(codec="utf-8"), max_size=20)
parameters = st.dictionaries(texts, st.integers(-(2**63), 2**63 - 1), max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    request = Request(model_name=draw(texts), model_version=draw(texts), id=draw(texts))
    for _ in range(draw(st.integers(0, 4))):
        item = request.inputs.add(
            name=draw(texts), datatype=draw(texts), shape=draw(st.lists(st.integers(-1, 2**63 - 1), max_size=9))
        )
        item.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=5)))
        item.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=9), max_size=5)))
        for name, value in draw(parameters).items():
            item.parameters[name].int64_param = value
    for _ in range(draw(st.integers(0, 4))):
        item = request.outputs.add(name=draw(texts))
        for name, value in draw(parameters).items():
            item.parameters[name].int64_param = value
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=200), max_size=4)))
    return request


@pytest.fixture(autouse=True, scope="module")
def nothing_is_small() -> Any:
    before, wire.SMALL_BYTES = wire.SMALL_BYTES, -1
    yield
    wire.SMALL_BYTES = before


def verdict(data: bytes) -> str:
    try:
        wire.check_fields(data)
    except Refusal as refusal:
        return refusal.message
    return ""


@given(requests())
@settings(max_examples=200, deadline=None)
def test_every_request_passes(request: Any) -> None:
    if all(len(item.shape) <= 32 for item in request.inputs):
        assert verdict(request.SerializeToString()) == ""


@given(requests(), st.data())
@settings(max_examples=500, deadline=None)
def test_what_protobuf_reads_passes_whatever_was_changed(request: Any, data: st.DataObject) -> None:
    """Groups apart: protobuf skips them, and no message here has one."""
    changed = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    del changed[data.draw(st.integers(0, len(changed))) :]
    try:
        found = Request.FromString(bytes(changed))
    except DecodeError:
        return
    said = verdict(bytes(changed))
    groups = [f for m in (found, *found.inputs, *found.outputs) for f in UnknownFieldSet(m) if f.wire_type == GROUP]
    assert said == "" or (said == NOT_OF_ITS_KIND and groups) or "axes" in said
