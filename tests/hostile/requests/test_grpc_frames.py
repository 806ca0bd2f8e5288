"""Attack list 3 and 6 over gRPC: frames that no client sends; each connection has its limits, and others are served."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from support.grpc_clients import GrpcServed, grpc_serve, import_grpc
from support.serving import echo_root

from intermodal_server.contract import ServeSettings

grpc = import_grpc()
from intermodal_server.front.grpc.health import MAX_WATCHERS  # noqa: E402
from intermodal_server.front.grpc.messages import message  # noqa: E402
from intermodal_server.front.grpc.server import MAX_CALLS_PER_CONNECTION  # noqa: E402

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MAX_CONCURRENT_STREAMS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServed]:
    root = echo_root(tmp_path_factory.mktemp("root"), serve=ServeSettings(grpc=True))
    with grpc_serve(root, slow_body_s=1, hang_s=60) as running:  # a flood takes cores from everybody for a while
        processes = running.served.children("front"), running.served.children("worker")
        yield running
        assert (running.served.children("front"), running.served.children("worker")) == processes


@pytest.fixture(autouse=True)
def others_are_served(server: GrpcServed) -> Iterator[None]:
    request = message("inference.ModelInferRequest")(model_name="echo", raw_input_contents=[struct.pack("<d", 1)])
    request.inputs.add(name="x", datatype="FP64", shape=[1])
    with grpc.insecure_channel(server.target) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        infer(request.SerializeToString(), timeout=120)
        yield
        infer(request.SerializeToString(), timeout=120)


def connect(server: GrpcServed) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(server.target.removeprefix("unix:"))
    return connection


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """A literal header field of up to 126 bytes that no table remembers."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


CALL = b"".join(
    field(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


def ended(connection: socket.socket) -> bytes:
    found = b""
    try:
        while data := connection.recv(1 << 16):
            found += data
    except ConnectionError:
        pass
    return found


def pour(connection: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):
        connection.sendall(data)


def resident_bytes(server: GrpcServed) -> int:
    (front,) = server.served.children("front")
    status = Path(f"/proc/{front}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_a_connection_is_told_how_many_calls_it_may_have(server: GrpcServed) -> None:
    with connect(server) as connection:
        connection.sendall(PREFACE + frame(SETTINGS))
        found = b""
        while len(found) < 9 or len(found) < 9 + int.from_bytes(found[:3], "big"):
            found += connection.recv(4096)
    assert found[3] == SETTINGS
    payload = found[9 : 9 + int.from_bytes(found[:3], "big")]
    settings = dict(struct.unpack_from(">HI", payload, place) for place in range(0, len(payload), 6))
    assert settings[MAX_CONCURRENT_STREAMS] == MAX_CALLS_PER_CONNECTION


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, b"x", stream=1),
        frame(HEADERS, b"\xff" * 100, END_HEADERS, 1),
        frame(HEADERS, CALL, END_HEADERS, 2),
        frame(CONTINUATION, b"", END_HEADERS, 1),
        frame(PING, b"short"),
        b"\xff\xff\xff" + bytes(6),
    ],
    ids=["data of no call", "broken headers", "an even call", "continued nothing", "a short ping", "a frame of 16 MB"],
)
def test_a_broken_frame_ends_its_connection(server: GrpcServed, data: bytes) -> None:
    with connect(server) as connection:
        pour(connection, PREFACE + frame(SETTINGS) + data)
        connection.shutdown(socket.SHUT_WR)
        ended(connection)


def test_headers_without_end_are_not_kept(server: GrpcServed) -> None:
    """What is beyond the limit is read and dropped: of 320 MB more than half is gone while they still come."""
    before = resident_bytes(server)
    more = b"".join(frame(CONTINUATION, field(b"x-%d" % n, b"v" * 100) * 100, 0, 1) for n in range(100))
    with connect(server) as connection:
        connection.sendall(PREFACE + frame(SETTINGS) + frame(HEADERS, CALL, 0, 1))
        for _ in range(300):
            pour(connection, more)
        assert resident_bytes(server) - before < 150 * len(more)


def test_calls_that_are_taken_back_at_once_cost_little(server: GrpcServed) -> None:
    """Two thousand calls, each reset as soon as it is made, as in the "rapid reset" attacks."""
    before = resident_bytes(server)
    reset = (8).to_bytes(4, "big")
    calls = [frame(HEADERS, CALL, END_HEADERS, 2 * n + 1) + frame(RESET, reset, 0, 2 * n + 1) for n in range(2000)]
    with connect(server) as connection:
        connection.settimeout(5)
        connection.sendall(PREFACE + frame(SETTINGS) + frame(SETTINGS, flags=ACK))
        for start in range(0, len(calls), 500):
            pour(connection, b"".join(calls[start : start + 500]))
        connection.shutdown(socket.SHUT_WR)
        ended(connection)
    assert resident_bytes(server) - before < 16 << 20


def test_nobody_watches_without_end(server: GrpcServed) -> None:
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(server.target))
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        for _ in range(MAX_WATCHERS):
            call = watch(b"", timeout=60)
            stack.callback(call.cancel)
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(b"", timeout=60))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
