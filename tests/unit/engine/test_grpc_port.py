"""gRPC of a real server in the sandbox: on a port of loopback when asked for, told when the image has none."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.grpc_clients import import_grpc
from support.served_image import predictor, served_image
from support.tiny_image import tiny_image

from intermodal.engine.docker import request as docker_request
from intermodal.engine.doors import serves_grpc
from intermodal.engine.driver import HARDENED, Spec, published
from intermodal.engine.interface import RunRequest
from intermodal.engine.podman_words import options
from intermodal.engine.sandbox import SandboxEngine
from intermodal.errors import InputError, PortTakenError
from intermodal.host import read
from intermodal.oci.layout import Store
from intermodal_server.contract import ServeSettings

grpc = import_grpc()
from intermodal_server.front.grpc.messages import message  # noqa: E402


def ground(folder: Path, way: str = "") -> tuple[Store, SandboxEngine]:
    variables = {"TMPDIR": str(folder), **({"INTERMODAL_SANDBOX": way} if way else {})}
    host = replace(read(), home=folder, environment=variables)
    store = Store(host.data_dir / "store").open_or_create()
    return store, SandboxEngine(store, host)


@pytest.mark.sandbox
@pytest.mark.parametrize("way", ["overlay", "loader"])
def test_a_call_reaches_the_server_in_the_sandbox(way: str, tmp_path: Path) -> None:
    store, engine = ground(tmp_path, way)
    image = served_image(store, "parity:1", predictor(), serve=ServeSettings(grpc=True, drain_s=0)).digest
    with engine.start(RunRequest(image, port=0, grpc_port=0)) as container:
        assert container.endpoint.grpc_port not in (0, container.endpoint.port)
        question = message("inference.ModelInferRequest")(model_name="parity")
        question.inputs.add(name="x", datatype="FP64", shape=[2])
        question.raw_input_contents.append(struct.pack("<2d", 2, 3))
        retry = {"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "1s",
                                 "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}  # fmt: skip
        config = json.dumps({"methodConfig": [{"name": [{}], **retry}]})
        with grpc.insecure_channel(
            f"127.0.0.1:{container.endpoint.grpc_port}", [("grpc.service_config", config)]
        ) as to:
            call = to.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            answer: Any = None
            while answer is None:
                try:
                    answer = call(question.SerializeToString(), timeout=60, wait_for_ready=True)
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE and container.poll() is None, container.logs()
        found = message("inference.ModelInferResponse").FromString(answer)
        assert found.raw_output_contents[0] == b"\x04\x00\x00\x00even\x03\x00\x00\x00odd"
        assert container.stop() == 0


@pytest.mark.sandbox
def test_it_starts_in_a_check_too_where_no_port_is_open(tmp_path: Path) -> None:
    store, engine = ground(tmp_path)
    image = served_image(store, "parity:1", predictor(), serve=ServeSettings(grpc=True, drain_s=0)).digest
    with engine.start(RunRequest(image)) as container:
        assert container.endpoint.socket is not None
        path = container.endpoint.socket.with_name("grpc.sock")
        with grpc.insecure_channel(f"unix:{path}") as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", timeout=60, wait_for_ready=True) == b"\x08\x01"


@pytest.mark.sandbox
def test_an_image_without_it_and_a_taken_port_are_told(tmp_path: Path) -> None:
    store, engine = ground(tmp_path)
    with pytest.raises(InputError, match="does not serve gRPC"):
        engine.start(RunRequest(tiny_image(store), port=0, grpc_port=0))
    image = served_image(store, "parity:1", predictor(), serve=ServeSettings(grpc=True)).digest
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTakenError) as caught:
            engine.start(RunRequest(image, port=0, grpc_port=other.getsockname()[1]))
    assert "--grpc-port" in caught.value.next[0]


SPEC = Spec(
    image="i", name="n", policy=HARDENED, environment={}, labels={}, folder=Path("/f"), binds={}, egress=True,
    publish=8080, publish_grpc=9000,
)  # fmt: skip


def test_docker_and_podman_publish_both_on_loopback() -> None:
    body = docker_request(SPEC)
    assert body["ExposedPorts"] == {"8080/tcp": {}, "8081/tcp": {}}
    assert body["HostConfig"]["PortBindings"] == {  # type: ignore[index]
        "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
        "8081/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}],
    }
    words = options(SPEC, timers=True)
    places = [place for place, word in enumerate(words) if word == "--publish"]
    assert [words[place + 1] for place in places] == ["127.0.0.1:8080:8080", "127.0.0.1:9000:8081"]
    assert "8081/tcp" not in docker_request(replace(SPEC, publish_grpc=None))["ExposedPorts"]  # type: ignore[operator]


def test_what_engines_say_of_ports() -> None:
    ports = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "7"}], "8081/tcp": None}
    assert (published(ports, 8080), published(ports, 8081), published({}, 8080)) == (7, 0, 0)
    assert serves_grpc({"ExposedPorts": {"8081/tcp": {}}}) and not serves_grpc({"ExposedPorts": {"8080/tcp": {}}})
