"""Attack list 3, 5, 7 over gRPC: messages that contradict themselves get a status, and the server goes on."""

from __future__ import annotations

import gzip
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.grpc_clients import GrpcServed, grpc_serve, import_grpc
from support.serving import echo_root

from intermodal_server.contract import ServeSettings

grpc = import_grpc()
from intermodal_server.front.grpc.codec import CONTENTS  # noqa: E402
from intermodal_server.front.grpc.messages import message  # noqa: E402

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIMIT = 4 << 20
Request = message("inference.ModelInferRequest")
Response = message("inference.ModelInferResponse")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServed]:
    serve = ServeSettings(grpc=True, max_request_bytes=LIMIT)
    with grpc_serve(echo_root(tmp_path_factory.mktemp("root"), serve=serve), slow_body_s=1, hang_s=60) as running:
        processes = running.served.children("front"), running.served.children("worker")
        yield running
        assert (running.served.children("front"), running.served.children("worker")) == processes


@pytest.fixture(scope="module")
def channel(server: GrpcServed) -> Iterator[Any]:
    with grpc.insecure_channel(server.target, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def fine(**changes: Any) -> Any:
    request = Request(model_name="echo", raw_input_contents=[struct.pack("<2d", 1, 2)])
    request.inputs.add(name="x", datatype="FP64", shape=[2])
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def send(channel: Any, data: bytes, path: str = INFER, **more: Any) -> bytes:
    return channel.unary_unary(path)(data, timeout=120, **more)


def refused(channel: Any, data: bytes, path: str = INFER, **more: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, data, path, **more)
    details = caught.value.details()
    for secret in ("Traceback", "/work", "site-packages", "intermodal_server", "python"):
        assert secret not in details
    return caught.value.code(), details


def answered(channel: Any) -> None:
    response = Response.FromString(send(channel, fine().SerializeToString()))
    assert response.raw_output_contents[0] == struct.pack("<2d", 2, 4)


def edit(change: Callable[[Any], Any]) -> bytes:
    request = fine()
    change(request)
    return request.SerializeToString()


def typed(datatype: str, shape: list[int], **contents: Any) -> Callable[[Any], Any]:
    def change(request: Any) -> None:
        del request.raw_input_contents[:]
        request.inputs[0].datatype = datatype
        request.inputs[0].shape[:] = shape
        for name, values in contents.items():
            getattr(request.inputs[0].contents, name).extend(values)

    return change


def shape(*lengths: int) -> Callable[[Any], Any]:
    def change(request: Any) -> None:
        request.inputs[0].shape[:] = lengths

    return change


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a product beyond 64 bits": (shape(2**40, 2**40), "no request can fill"),
    "a product that wraps to two": (shape(2**62, 8, 2), "no request can fill"),
    "a negative length": (shape(-1), "no request can fill"),
    "axes without end": (shape(*[1] * 33), "more than 32 axes"),
    "a shape that the bytes do not fill": (shape(3), "16 bytes, its shape says 24"),
    "no inputs": (lambda r: (r.ClearField("inputs"), r.ClearField("raw_input_contents")), "is missing"),
    "raw contents too few": (lambda r: r.inputs.add(name="y", datatype="FP64"), "more inputs than the model"),
    "raw contents too many": (lambda r: r.raw_input_contents.append(b"x"), "2 entries for 1 inputs"),
    "an unknown datatype": (lambda r: setattr(r.inputs[0], "datatype", "FP128"), "unknown datatype 'FP128'"),
    "a datatype as long as a book": (lambda r: setattr(r.inputs[0], "datatype", "F" * 10**6), "unknown datatype"),
    "raw and typed": (lambda r: r.inputs[0].contents.fp64_contents.append(1.0), "both contents and raw"),
    "raw and empty typed": (lambda r: r.inputs[0].contents.SetInParent(), "both contents and raw"),
    "an unknown input": (lambda r: setattr(r.inputs[0], "name", "z" * 10**5), "'x' is missing"),
    "an unknown output": (lambda r: r.outputs.add(name="n" * 10**5), "the model has no output"),
    "an output twice": (lambda r: (r.outputs.add(name="y"), r.outputs.add(name="y")), "requested twice"),
    "outputs without end": (lambda r: [r.outputs.add(name=str(i)) for i in range(100_000)], "more than 16384 fields"),
    "inputs without end": (lambda r: [r.inputs.add(name=str(i)) for i in range(100_000)], "more than 16384 fields"),
    "many outputs": (lambda r: [r.outputs.add(name=str(i)) for i in range(1025)], "more than 1024 outputs"),
    "many inputs": (lambda r: [r.inputs.add(name=str(i)) for i in range(100)], "more inputs than the model"),
    "a long id": (lambda r: setattr(r, "id", "i" * 257), "longer than 256"),
    "shared memory for an input": (
        lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "/etc/passwd"),
        "shared memory is not offered",
    ),
    "shared memory for an output": (
        lambda r: setattr(r.outputs.add(name="y").parameters["shared_memory_region"], "string_param", "x"),
        "shared memory is not offered",
    ),
    "no classes": (
        lambda r: setattr(r.outputs.add(name="y").parameters["classification"], "string_param", "x"),
        "a number of classes",
    ),
    "typed contents too few": (typed("FP64", [2], fp64_contents=[1.0]), "1 values in fp64_contents, its shape says 2"),
    "typed contents too many": (typed("FP64", [2], fp64_contents=[1.0] * 1000), "its shape says 2"),
    "no contents at all": (typed("FP64", [2]), "0 values in fp64_contents"),
    "typed contents of another field": (typed("FP64", [2], fp32_contents=[1.0, 2.0]), "fp64_contents is expected"),
    "typed contents of two fields": (
        typed("FP64", [1], fp64_contents=[1.0], bool_contents=[True]),
        "fp64_contents is expected",
    ),
    "typed halves": (typed("FP16", [1], fp32_contents=[1.0]), "raw_input_contents only"),
    "a typed number out of range": (typed("INT8", [1], int_contents=[300]), "out of range for INT8"),
    "another datatype than the model's": (typed("BOOL", [1], bool_contents=[True]), "is BOOL, the model takes FP64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_contradiction_is_told(channel: Any, case: str) -> None:
    change, told = WRONG[case]
    code, details = refused(channel, edit(change))
    assert code == INVALID and told in details and len(details) < 400, (code, details)
    answered(channel)


def nested(tag: bytes, data: bytes) -> bytes:
    length, size = len(data), b""
    while True:
        size += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
        if not length:
            return tag + size + data


MANY = {
    "inputs": b"\x2a\x00" * (1 << 20),
    "outputs": b"\x32\x00" * (1 << 20),
    "parameters": b"\x22\x00" * (1 << 20),
    "raw contents": b"\x3a\x00" * (1 << 20),
    "parameters of one input": nested(b"\x2a", b"\x22\x00" * (1 << 20)),
    "parameters of one output": nested(b"\x32", b"\x12\x00" * (1 << 20)),
    "axes": nested(b"\x2a", nested(b"\x1a", b"\x01" * (1 << 20))),
}


@pytest.mark.parametrize("what", MANY)
def test_two_bytes_do_not_become_a_hundred(channel: Any, server: GrpcServed, what: str) -> None:
    """Parsed, these two megabytes would take up to 88 of memory, and hold up everybody while they are."""
    (front,) = server.served.children("front")
    before = peak_bytes(front)
    code, details = refused(channel, MANY[what])
    assert code == INVALID and ("more than 16384 fields" in details or "more than 32 axes" in details), details
    assert peak_bytes(front) - before < 3 * LIMIT
    answered(channel)


@pytest.mark.parametrize("method", ["ServerLive", "ModelMetadata", "RepositoryIndex"])
def test_other_methods_take_small_messages_only(channel: Any, method: str) -> None:
    code, _ = refused(channel, b"\x0a\x01a" * (1 << 18), f"/inference.GRPCInferenceService/{method}")
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 1000,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x1f",
        b"\x78",
        b"\x0a\x01\xff",
        b"{}",
        b"\x2b" * 5000,
        b"\x2b" * 500_000,
        b"\x3a\x80\x80\x80\x80\x01" + bytes(70_000),
    ],
    ids=[
        "ones",
        "a length beyond the end",
        "half a gzip",
        "half a deflate",
        "not UTF-8",
        "JSON",
        "groups without end",
        "large groups",
        "a large one that is cut",
    ],
)
def test_what_is_no_message_is_told(channel: Any, data: bytes) -> None:
    code, details = refused(channel, data)
    assert (code, details) == (INVALID, "the message is not of its kind")
    answered(channel)


def test_a_call_without_a_message_is_told(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(INFER)(iter(()), timeout=30)
    assert (caught.value.code(), caught.value.details()) == (INVALID, "the call has no message")


def test_every_datatype_has_its_field() -> None:
    fields = {field.name for field in message("inference.InferTensorContents").DESCRIPTOR.fields}
    assert set(CONTENTS.values()) == fields


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_a_bomb_is_not_expanded(channel: Any, server: GrpcServed, compress: Callable[[bytes], bytes]) -> None:
    """As if a client had compressed it: grpcio hands compressed bytes on as they are."""
    (front,) = server.served.children("front")
    bomb = compress(b"\x3a" * (256 << 20))
    before = peak_bytes(front)
    code, details = refused(channel, bomb)
    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, f"the request body is larger than {LIMIT} bytes")
    assert peak_bytes(front) - before < 8 * LIMIT
    cut = compress(fine().SerializeToString())[:-9]
    assert refused(channel, cut)[0] == INVALID
    answered(channel)


def test_a_bomb_of_an_unmodified_client_is_not_expanded(channel: Any) -> None:
    """The sentence is ours: grpcio has not looked into it."""
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        code, details = refused(channel, b"\x3a" * (64 << 20), compression=compression)
        assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, f"the request body is larger than {LIMIT} bytes")
    answered(channel)


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_a_message_above_the_limit_is_refused_before_it_is_read(channel: Any) -> None:
    assert refused(channel, bytes(LIMIT + 1))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    answered(channel)


def test_metadata_above_the_limit_is_refused(server: GrpcServed) -> None:
    with grpc.insecure_channel(server.target) as channel:
        code, _ = refused(channel, fine().SerializeToString(), metadata=[("x", "v" * (70 << 10))])
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        answered(channel)


def test_a_message_that_never_comes_ends_the_call(server: GrpcServed) -> None:
    """slow_body_s is 1 here, and 4 MiB have 4 s more."""

    def never() -> Iterator[bytes]:
        import threading

        threading.Event().wait(30)
        yield b""

    with grpc.insecure_channel(server.target) as channel:
        call = channel.stream_unary(INFER).future(never(), timeout=60)
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert call.details() == "the message came too slowly"
        answered(channel)


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload", "ModelStreamInfer", "LogSettings",
                                    "SystemSharedMemoryRegister", "CudaSharedMemoryRegister"])  # fmt: skip
def test_what_must_not_exist_does_not(channel: Any, method: str) -> None:
    code, _ = refused(channel, b"", f"/inference.GRPCInferenceService/{method}")
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_no_reflection(channel: Any) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    assert refused(channel, b"", path)[0] == grpc.StatusCode.UNIMPLEMENTED


def test_a_request_id_cannot_forge_a_log_line(channel: Any, server: GrpcServed) -> None:
    call = channel.unary_unary(INFER).with_call
    _, done = call(fine().SerializeToString(), metadata=[("x-request-id", "i" * 500)], timeout=30)
    (given,) = [value for name, value in done.trailing_metadata() if name == "x-request-id"]
    assert len(given) < 128
    _, done = call(fine().SerializeToString(), metadata=[("x-request-id", "mine")], timeout=30)
    assert ("x-request-id", "mine") in [tuple(item) for item in done.trailing_metadata()]


def raw(server: GrpcServed) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)  # grpcio's own patience is twenty seconds, ours is one here
    connection.connect(server.target.removeprefix("unix:"))
    return connection


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def ended(connection: socket.socket) -> bytes:
    """What came until the server closed."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, PREFACE[:10]],
                         ids=["silence", "HTTP/1", "zeros", "half a preface"])  # fmt: skip
def test_what_is_not_http2_is_closed(server: GrpcServed, channel: Any, first: bytes) -> None:
    with raw(server) as connection:
        connection.sendall(first)
        ended(connection)
    answered(channel)


def test_too_many_pings_end_the_connection(server: GrpcServed, channel: Any) -> None:
    with raw(server) as connection:
        connection.sendall(PREFACE + frame(4))
        try:
            for _ in range(50):
                connection.sendall(frame(6, b"12345678"))
        except ConnectionError:
            pass
        assert b"too_many_pings" in ended(connection)
    answered(channel)
