"""gRPC in the front: statuses, deadlines, cancelled calls, guards, drain, and a front that is replaced."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.grpc_clients import GrpcServed, front_site, grpc_serve, import_grpc
from support.grpc_load import Load, ask, free_port, infer, numbers, question
from support.serving import CODE_DIR, echo_root, echo_settings, infer_body, serve, write_root

from intermodal.engine.http import get
from intermodal.engine.interface import Endpoint
from intermodal_server.contract import ServeSettings

grpc = import_grpc()
from intermodal_server.front.app import App  # noqa: E402
from intermodal_server.front.grpc.calls import _exchange  # noqa: E402
from intermodal_server.front.grpc.messages import message  # noqa: E402
from intermodal_server.front.grpc.server import GrpcServer  # noqa: E402
from intermodal_server.front.health import Health  # noqa: E402
from intermodal_server.front.service import Service  # noqa: E402
from intermodal_server.log import Log  # noqa: E402
from intermodal_server.tensors import Tensor  # noqa: E402

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
GRPC = ServeSettings(grpc=True)
Request = message("inference.ModelInferRequest")
Response = message("inference.ModelInferResponse")
HealthRequest = message("grpc.health.v1.HealthCheckRequest")
HealthResponse = message("grpc.health.v1.HealthCheckResponse")
SERVING, NOT_SERVING = 1, 2
Code = grpc.StatusCode

# sleeps for as long as it is told, and writes down what it was asked
DIARY = """
import time
class Model:
    def predict(self, x):
        with open("{path}", "a") as diary:
            diary.write(" ".join(map(str, x)) + "\\n")
        time.sleep(x[0])
        return {{"y": x}}
"""


def failure(channel: Any, *values: float, **more: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel, *values, **more)
    return caught.value


def health(channel: Any, name: str = "") -> int:
    data = channel.unary_unary(f"{HEALTH}Check")(HealthRequest(service=name).SerializeToString(), timeout=60)
    return int(HealthResponse.FromString(data).status)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServed]:
    with grpc_serve(echo_root(tmp_path_factory.mktemp("root"), serve=GRPC)) as running:
        yield running


@pytest.fixture
def channel(echo: GrpcServed) -> Iterator[Any]:
    with grpc.insecure_channel(echo.target) as channel:
        yield channel


def diary_root(root: Path) -> Path:
    text = DIARY.format(path=root / "diary")
    return write_root(root, echo_settings(predictor="diary:Model", serve=GRPC), app={"diary.py": text})


def diary(root: Path) -> list[float]:
    path = root / "diary"
    return [float(line.split()[-1]) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_model_that_fails_or_dies_is_internal(channel: Any, echo: GrpcServed) -> None:
    assert ask(channel, 1, 2) == [2, 4]
    error = failure(channel, 444)
    assert (error.code(), error.details()) == (Code.INTERNAL, "the model failed on this request")
    error = failure(channel, 666)
    assert (error.code(), error.details()) == (Code.INTERNAL, "the model process ended while it worked on this request")
    assert ask(channel, 3) == [6]


def test_another_model_or_version_is_not_found(channel: Any) -> None:
    for name, version in (("other", ""), ("echo", "2")):
        with pytest.raises(grpc.RpcError) as caught:
            infer(channel)(Request(model_name=name, model_version=version).SerializeToString(), timeout=60)
        assert caught.value.code() == Code.NOT_FOUND
        request = message("inference.ModelReadyRequest")(name=name, version=version).SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"{SERVICE}ModelReady")(request, timeout=60)
        assert caught.value.code() == Code.NOT_FOUND


def test_both_protocols_are_counted_together(channel: Any, echo: GrpcServed) -> None:
    def success() -> int:
        document = echo.served.request("GET", "/v2/models/stats").json
        return int(document["model_stats"][0]["inference_stats"]["success"]["count"])

    before = success()
    ask(channel, 1)
    assert echo.served.infer([1]).status == 200
    assert success() == before + 2
    metrics = get(Endpoint(echo.served.metrics_socket), "/metrics")[1].decode()
    assert 'intermodal_requests_total{protocol="grpc",code="200",traffic="live"}' in metrics, metrics


@pytest.mark.parametrize(
    ("metadata", "traffic"),
    [("x-intermodal-mirror", "mirror"), ("x-intermodal-golden", "golden"), ("x-intermodal-revision", "override")],
)
def test_a_gateway_says_what_is_no_live_traffic(channel: Any, echo: GrpcServed, metadata: str, traffic: str) -> None:
    def counted(kind: str) -> str:
        lines = get(Endpoint(echo.served.metrics_socket), "/metrics")[1].decode().splitlines()
        series = f'intermodal_requests_total{{protocol="grpc",code="200",traffic="{kind}"}} '
        return next((line.removeprefix(series) for line in lines if line.startswith(series)), "0")

    before = counted("live"), counted(traffic)
    ask(channel, 1, metadata=((metadata, "1"),))
    assert (counted("live"), float(counted(traffic))) == (before[0], float(before[1]) + 1)


def test_metadata_are_headers(channel: Any, echo: GrpcServed) -> None:
    failure(channel, 444, metadata=[("x-request-id", "mine"), ("traceparent", "00-a-b-01")])
    (line,) = [line for line in echo.served.log() if line["message"] == "request" and line["request"] == "mine"]
    assert (line["protocol"], line["status"], line["path"]) == ("grpc", 500, "/v2/models/echo/infer")

    class Context:
        @staticmethod
        def invocation_metadata() -> list[tuple[str, object]]:
            return [("traceparent", "00-a-b-01"), ("x", "1"), ("x", "2"), ("y-bin", b"\xff")]

    assert _exchange("/", Context).headers == {b"traceparent": "00-a-b-01", b"x": "1", b"y-bin": "\xff"}


DOORS = """
import os, socket
from intermodal_server.front.grpc.doors import GOAWAY, Guests, shut_listeners
for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "{path}")):
    listener, client, other = socket.socket(family), socket.socket(family), socket.socket(family)
    listener.bind(address)
    listener.listen()
    address = listener.getsockname()
    place = address if family == socket.AF_UNIX else address[1]
    client.connect(address)
    accepted, _ = listener.accept()
    before = sorted(os.listdir("/proc/self/fd"))
    guests = Guests([place])
    assert Guests([1]).send_away() == 0
    shut_listeners([place])
    accepted.setblocking(False)
    try:
        while True:
            accepted.send(bytes(1 << 16))
    except BlockingIOError:
        assert guests.send_away() == 1  # a frame may have left in part
    client.settimeout(1)
    while True:
        try:
            assert not any(client.recv(1 << 20))
        except TimeoutError:
            break
    assert guests.send_away() == guests.send_away() == 1
    assert client.recv(100) == GOAWAY == b"\\0\\0\\x08\\x07\\0\\0\\0\\0\\0\\x7f\\xff\\xff\\xff\\0\\0\\0\\0"
    assert sorted(os.listdir("/proc/self/fd")) == before
    try:
        other.connect(address)
    except ConnectionRefusedError:
        accepted.sendall(b"x")
        assert client.recv(1) == b"x"
        print("right")
    client.close()
    assert Guests([place]).send_away() == 1  # gone, and grpcio does not know yet
    accepted.close()
    assert guests.send_away() == 0
"""


def test_guests_are_asked_to_go_once_between_frames(tmp_path: Path) -> None:
    """In a process of its own: the threads of grpcio open and close descriptors as they like."""
    command = [sys.executable, "-c", DOORS.format(path=tmp_path / "s")]
    variables = {"PYTHONPATH": str(CODE_DIR.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert (done.returncode, done.stdout) == (0, "right\nright\n"), done.stderr


class Sleeper:
    """An executor that answers what it was asked after a moment."""

    mode, workers, waiting = "inline", 1, 0

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def infer(self, exchange: Any, inputs: Any) -> Any:
        self.asked.set()
        await asyncio.sleep(0.5)
        return [Tensor("y", "FP64", inputs[0].shape, inputs[0].data)]


def test_a_successor_takes_the_port_while_the_other_finishes() -> None:
    """The old one's call is answered by the old one, the next by the new one, over the same channel."""

    async def main() -> None:
        address = f"127.0.0.1:{free_port()}"
        old, new = Sleeper(), Sleeper()
        servers = []
        for executor in (old, new):
            service = Service(echo_settings(serve=GRPC), executor, Health("ready"), slow_body_s=1, log=Log("test"))
            servers.append(GrpcServer(App(service, Log("test")), [address], Log("test"), slow_body_s=1))
        await servers[0].start()
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(f"{SERVICE}ModelInfer")
            first = asyncio.ensure_future(call(question(1), timeout=60))
            await old.asked.wait()
            starting = asyncio.ensure_future(servers[1].start())
            await asyncio.sleep(0.1)
            assert not starting.done()
            servers[0].leave(30)
            await starting
            assert not first.done()
            assert numbers(await first) == [1]
            await servers[0].finished()
            assert numbers(await call(question(2), timeout=60, wait_for_ready=True)) == [2]
            assert new.asked.is_set()
        servers[1].leave(0)
        await servers[1].finished()

    asyncio.run(main())


def test_until_the_model_is_loaded_it_is_unavailable(tmp_path: Path) -> None:
    slow = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n"
    model = f"{slow}class Model:\n    def predict(self, x):\n        return {{'y': x}}\n"
    root = write_root(tmp_path, echo_settings(predictor="slow:Model", serve=GRPC), app={"slow.py": model})
    with grpc_serve(root, wait=False) as running, grpc.insecure_channel(running.target) as channel:
        running.served.wait(lambda: Path(running.target[5:]).exists(), "the gRPC socket")
        watch = channel.unary_stream(f"{HEALTH}Watch")(b"", timeout=60)
        assert HealthResponse.FromString(next(watch)).status == NOT_SERVING
        assert health(channel) == NOT_SERVING
        live = channel.unary_unary(f"{SERVICE}ServerLive")(b"", timeout=60)
        assert message("inference.ServerLiveResponse").FromString(live).live
        error = failure(channel, 1)
        assert (error.code(), error.details()) == (Code.UNAVAILABLE, "not ready: loading")
        trailers = dict(error.trailing_metadata())
        assert trailers["retry-after"] == "1" and trailers["grpc-retry-pushback-ms"] == "1000"
        (tmp_path / "go").touch()
        assert HealthResponse.FromString(next(watch)).status == SERVING
        assert ask(channel, 0) == [0]


def test_a_deadline_that_passed_never_reaches_the_model(tmp_path: Path) -> None:
    with grpc_serve(diary_root(tmp_path)) as running, grpc.insecure_channel(running.target) as channel:
        first = infer(channel).future(question(1.0, 1), timeout=60)
        running.served.wait(lambda: diary(tmp_path) == [1], "the first to be worked on")
        late = infer(channel).future(question(0, 2), timeout=0.2)
        gone = infer(channel).future(question(0, 3), timeout=60)
        assert late.code() == Code.DEADLINE_EXCEEDED
        gone.cancel()
        assert numbers(first.result()) == [1.0, 1]
        assert ask(channel, 0, 4) == [0, 4]
        assert diary(tmp_path) == [1, 4]
        assert len(running.served.children("worker")) == 1


def test_a_model_that_takes_too_long_is_a_deadline_of_ours(tmp_path: Path) -> None:
    with grpc_serve(diary_root(tmp_path), timeout_s=1) as running, grpc.insecure_channel(running.target) as channel:
        error = failure(channel, 600)
        assert (error.code(), error.details()) == (Code.DEADLINE_EXCEEDED, "the model did not answer within 1 s")
        running.served.wait(lambda: health(channel) == SERVING, "the replacement")
        assert ask(channel, 0) == [0]


def test_guards_look_at_calls_too(tmp_path: Path) -> None:
    key = "k" * 40
    given = f"keys:anna:{hashlib.sha256(key.encode()).hexdigest()}"
    with (
        grpc_serve(echo_root(tmp_path, serve=GRPC), api_keys=given, rate_per_s=0.001, rate_burst=2) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        assert health(channel) == SERVING
        error = failure(channel, 1)
        assert error.code() == Code.UNAUTHENTICATED and "an API key is needed" in error.details()
        assert failure(channel, 1, metadata=[("authorization", "Bearer x")]).code() == Code.UNAUTHENTICATED
        assert ask(channel, 1, metadata=[("authorization", f"Bearer {key}")]) == [2]
        assert ask(channel, 1, metadata=[("x-api-key", key)]) == [2]
        error = failure(channel, 1, metadata=[("x-api-key", key)])
        assert error.code() == Code.RESOURCE_EXHAUSTED and int(dict(error.trailing_metadata())["retry-after"]) > 1


def test_a_key_is_asked_for_before_the_message_is_read(tmp_path: Path) -> None:
    given = f"keys:anna:{hashlib.sha256(b'x').hexdigest()}"

    def never() -> Iterator[bytes]:
        threading.Event().wait(30)
        yield b""

    with (
        grpc_serve(echo_root(tmp_path, serve=GRPC), api_keys=given) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        call = channel.stream_unary(f"{SERVICE}ModelInfer").future(never(), timeout=60)
        assert call.code() == Code.UNAUTHENTICATED


def test_a_replaced_front_comes_back_on_the_same_ports(tmp_path: Path) -> None:
    port = free_port()
    with grpc_serve(echo_root(tmp_path, serve=GRPC), grpc_port=port) as running:
        by_port, by_socket = (grpc.insecure_channel(t) for t in (f"127.0.0.1:{port}", running.target))
        with by_port, by_socket:
            for channel in (by_port, by_socket):
                assert ask(channel, 1) == [2]
            (front,) = running.served.children("front")
            os.kill(front, signal.SIGKILL)
            running.served.wait(lambda: running.served.children("front") not in ([], [front]), "another front")
            for channel in (by_port, by_socket):
                with suppress(grpc.RpcError):  # of the connection that was lost, if the client has not seen it yet
                    ask(channel, 1)
                assert ask(channel, 1, wait_for_ready=True) == [2]


def test_nothing_is_lost_when_one_of_two_drains_under_load(tmp_path: Path) -> None:
    """Clients retry on UNAVAILABLE, as kserve's does; whatever was accepted is answered."""
    roots = [diary_root(tmp_path / name) for name in ("a", "b")]
    ports = [free_port(), free_port()]
    with (
        grpc_serve(roots[0], grpc_port=ports[0], drain_s=0.3) as leaving,
        grpc_serve(roots[1], grpc_port=ports[1]) as staying,
    ):
        target = f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
        load = Load(target, 8)
        staying.served.wait(lambda: len(diary(roots[0])) > 100 and len(diary(roots[1])) > 100, "load on both")
        with grpc.insecure_channel(leaving.target) as channel:
            watch = channel.unary_stream(f"{HEALTH}Watch")(b"", timeout=60)
            assert HealthResponse.FromString(next(watch)).status == SERVING
            leaving.served.process.send_signal(signal.SIGTERM)
            assert HealthResponse.FromString(next(watch)).status == NOT_SERVING
            assert ask(channel, 0) == [0]  # not ready, and serving
            assert list(watch) == []  # it ends well, and keeps nobody
            assert leaving.served.process.wait(60) == 0
        before = len(diary(roots[1]))
        staying.served.wait(lambda: load.errors or len(diary(roots[1])) > before + 100, "load on the other")
        answered = load.end()
        assert load.errors == []
        asked = [value for root in roots for value in diary(root) if value]
        assert set(asked) == answered
        assert not [line for line in leaving.served.log() if line["level"] == "error"]


def test_a_taken_port_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with serve(echo_root(tmp_path, serve=GRPC), front_site=front_site(), grpc_port=port, wait=False) as server:
            assert server.process.wait(30) == 3
            assert f"cannot listen on 127.0.0.1 port {port}" in server.log()[-1]["reason"]


@pytest.mark.parametrize(("name", "value"), [("grpc_port", 1234), ("grpc_socket", "/tmp/x"), ("grpc_port", 70000)])
def test_gRPC_that_the_image_lacks_is_told(tmp_path: Path, name: str, value: Any) -> None:
    with serve(echo_root(tmp_path), wait=False, **{name: value}) as server:
        assert server.process.wait(30) == 2
        assert f"INTERMODAL_{name.upper()} is" in server.log()[-1]["reason"]


def test_without_it_nothing_of_it_is_imported(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), front_site=front_site(), grpc_port=0) as server:
        (front,) = server.children("front")
        assert "cygrpc" not in Path(f"/proc/{front}/maps").read_text()


def test_many_callers_of_both_protocols_get_their_own_rows(echo: GrpcServed) -> None:
    failed: list[object] = []

    def by_grpc(caller: int) -> None:
        with grpc.insecure_channel(echo.target) as channel:
            for turn in range(20):
                values = [caller * 1000.0 + turn, 0.5]
                if ask(channel, *values) != [2 * v for v in values]:
                    failed.append(values)

    def by_http(caller: int) -> None:
        for turn in range(20):
            values = [caller * 1000.0 + turn]
            reply = echo.served.request("POST", "/v2/models/echo/infer", infer_body(values))
            if reply.json["outputs"][0]["data"] != [2 * v for v in values]:
                failed.append(values)

    threads = [threading.Thread(target=by_grpc, args=(1 + n,)) for n in range(4)]
    threads += [threading.Thread(target=by_http, args=(10 + n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
