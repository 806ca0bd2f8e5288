"""gRPC of a real server in Docker and podman: published on loopback, or by the socket of a container without net."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from msgspec.structs import replace
from support import engines
from support.cli import world_folder
from support.grpc_clients import import_grpc
from support.served_image import predictor, served_image

from intermodal import host as hosts
from intermodal.engine import get_engine
from intermodal.engine.interface import Engine, RunRequest
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal_server.contract import ServeSettings

grpc = import_grpc()
from intermodal_server.front.grpc.messages import message  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]


@dataclass(frozen=True)
class Ground:
    """An engine, and an image that serves gRPC."""

    engine: Engine
    image: Digest


@pytest.fixture(params=["docker", "podman"], scope="module")
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with world_folder() as folder, getattr(engines, request.param)() as running:
        store = Store(folder / "store").open_or_create()
        real = hosts.read()
        host = replace(real, environment={**real.environment, **running.variables})
        image = served_image(store, "parity:1", predictor(), serve=ServeSettings(grpc=True, drain_s=0)).digest
        yield Ground(get_engine(request.param, store, host), image)


@pytest.mark.parametrize("egress", [True, False], ids=["published", "without network"])
def test_a_call_reaches_the_server(ground: Ground, egress: bool) -> None:
    with ground.engine.start(RunRequest(ground.image, egress=egress, port=0, grpc_port=0)) as container:
        port = container.endpoint.grpc_port
        assert port not in (0, container.endpoint.port)
        question = message("inference.ModelInferRequest")(model_name="parity")
        question.inputs.add(name="x", datatype="FP64", shape=[1])
        question.raw_input_contents.append(struct.pack("<d", 3))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            answer = b""
            while answer != b"\x08\x01":
                try:
                    answer = ready(b"", timeout=60, wait_for_ready=True)
                except grpc.RpcError as error:  # the port is open before anybody listens behind it
                    assert error.code() == grpc.StatusCode.UNAVAILABLE and container.poll() is None, container.logs()
            found = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(question.SerializeToString())
        raw = message("inference.ModelInferResponse").FromString(found).raw_output_contents
        assert list(raw) == [b"\x03\x00\x00\x00odd"]
        assert container.stop() == 0
