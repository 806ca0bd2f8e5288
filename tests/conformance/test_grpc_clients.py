"""Unmodified gRPC clients against the server: tritonclient (sync and aio), kserve's, and the standard health client."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.grpc_clients import clients_python, grpc_serve
from support.serving import echo_settings, write_root

from intermodal_server.contract import ServeSettings, Signature, TensorSpec

MODEL = """
class Model:
    def predict(self, n, h, s):
        return {"twice": [[2.0 * v for v in row] for row in n], "half": h, "loud": [v.upper() for v in s]}
"""
TYPED_MODEL = """
class Model:
    def predict(self, n, s):
        return {"twice": [[2.0 * v for v in row] for row in n], "loud": [v.upper() for v in s]}
"""
SIGNATURE = Signature(
    (TensorSpec("n", "FP64", (-1, 2)), TensorSpec("h", "FP16", (-1,)), TensorSpec("s", "BYTES", (-1,))),
    (TensorSpec("twice", "FP64", (-1, 2)), TensorSpec("half", "FP64", (-1,)), TensorSpec("loud", "BYTES", (-1,))),
)

COMMON = r"""
import asyncio, sys
import numpy as np

url = sys.argv[1]
n = np.array([[1.5, 2.0], [3.0, -4.0]])
h = np.array([0.5, 65504.0], dtype=np.float16)
s = np.array(["a", "\u00fc"], dtype=object)

def right(as_numpy):
    assert (as_numpy("twice") == 2 * n).all(), as_numpy("twice")
    assert as_numpy("half").tolist() == [0.5, 65504.0], as_numpy("half")
    assert [v.decode() if isinstance(v, bytes) else v for v in as_numpy("loud").tolist()] == ["A", "\u00dc"]
"""

TRITON = (
    COMMON
    + r"""
import queue
import tritonclient.grpc as sync_client
import tritonclient.grpc.aio as aio_client
from tritonclient.utils import InferenceServerException

def tensors(module):
    inputs = [module.InferInput("n", [2, 2], "FP64"), module.InferInput("h", [2], "FP16"),
              module.InferInput("s", [2], "BYTES")]
    for tensor, values in zip(inputs, (n, h, s)):
        tensor.set_data_from_numpy(values)
    return inputs

client = sync_client.InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("twice") and client.is_model_ready("twice", "1")
for wrong in (("other", ""), ("twice", "2")):
    try:
        client.is_model_ready(*wrong)
    except InferenceServerException as error:
        assert error.status() == "StatusCode.NOT_FOUND", error
    else:
        raise AssertionError(f"{wrong} is ready")
assert client.get_server_metadata().name == "intermodal"
metadata = client.get_model_metadata("twice", as_json=True)
assert [(t["name"], t["datatype"], t["shape"]) for t in metadata["inputs"]] == [
    ("n", "FP64", ["-1", "2"]), ("h", "FP16", ["-1"]), ("s", "BYTES", ["-1"])], metadata
config = client.get_model_config("twice").config
assert [t.data_type for t in config.input] == [12, 10, 13] and config.backend == "predictor", config
index = client.get_model_repository_index(as_json=True)["models"]
assert index == [{"name": "twice", "version": "1", "state": "READY"}], index

asked = 0
wanted = [sync_client.InferRequestedOutput(name) for name in ("loud", "twice", "half")]
for algorithm in (None, "gzip", "deflate"):
    right(client.infer("twice", tensors(sync_client), compression_algorithm=algorithm).as_numpy)
    result = client.infer("twice", tensors(sync_client), model_version="1", outputs=wanted, request_id="id 7",
                          compression_algorithm=algorithm, headers={"x-request-id": "abc"}, client_timeout=20,
                          parameters={"mine": 1, "text": "t", "flag": True, "ratio": 0.5})
    right(result.as_numpy)
    response = result.get_response()
    assert response.id == "id 7" and [o.name for o in response.outputs] == ["loud", "twice", "half"], response
    asked += 2
classes = sync_client.InferRequestedOutput("twice", class_count=1)
result = client.infer("twice", tensors(sync_client), outputs=[classes])
assert result.as_numpy("twice").tolist() == [[b"4.000000:1"], [b"6.000000:0"]], result.as_numpy("twice")
answers = queue.Queue()
for _ in range(20):
    client.async_infer("twice", tensors(sync_client), callback=lambda result, error: answers.put((result, error)))
for _ in range(20):
    result, error = answers.get(timeout=30)
    assert error is None, error
    right(result.as_numpy)
asked += 21
statistics = client.get_inference_statistics("twice", "1").model_stats[0]
assert statistics.inference_stats.success.count == asked and statistics.inference_stats.success.ns > 0, statistics
assert client.get_inference_statistics().model_stats[0].name == "twice"
for broken in (lambda: client.load_model("twice"), lambda: client.unload_model("twice"),
               lambda: client.register_system_shared_memory("a", "/a", 1), client.get_trace_settings):
    try:
        broken()
    except InferenceServerException as error:
        assert error.status() == "StatusCode.UNIMPLEMENTED", error
    else:
        raise AssertionError("a method that must not exist")

async def asynchronous():
    async with aio_client.InferenceServerClient(url) as client:
        assert await client.is_server_ready() and await client.is_model_ready("twice")
        assert (await client.get_model_metadata("twice")).name == "twice"
        for algorithm in (None, "gzip", "deflate"):
            right((await client.infer("twice", tensors(aio_client), compression_algorithm=algorithm)).as_numpy)
        for result in await asyncio.gather(*[client.infer("twice", tensors(aio_client)) for _ in range(50)]):
            right(result.as_numpy)

asyncio.run(asynchronous())
print("all right")
"""
)

KSERVE = (
    COMMON
    + r"""
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def main():
    async with InferenceGRPCClient(url) as client:
        assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("twice")
        inputs = [InferInput("n", [2, 2], "FP64"), InferInput("h", [2], "FP16"), InferInput("s", [2], "BYTES")]
        for tensor, values in zip(inputs, (n, h, s)):
            tensor.set_data_from_numpy(values, binary_data=True)
        answer = await client.infer(InferRequest("twice", inputs, request_id="7"), timeout=20)
        assert answer.id == "7" and answer.model_name == "twice" and answer.model_version == "1", answer
        right(lambda name: next(o for o in answer.outputs if o.name == name).as_numpy())

asyncio.run(main())
print("all right")
"""
)

TYPED = (
    COMMON
    + r"""
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def main():
    async with InferenceGRPCClient(url) as client:
        inputs = [InferInput("n", [2, 2], "FP64", n.ravel().tolist()), InferInput("s", [2], "BYTES", [b"a", b"b"])]
        request = InferRequest("typed", inputs)
        assert not request.to_grpc().raw_input_contents and request.to_grpc().inputs[0].contents.fp64_contents
        outputs = {output.name: output.as_numpy() for output in (await client.infer(request)).outputs}
        assert (outputs["twice"] == 2 * n).all() and outputs["loud"].tolist() == [b"A", b"B"], outputs

asyncio.run(main())
print("all right")
"""
)

HEALTH = r"""
import sys
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService", "twice"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
        assert next(watch).status == 1
        watch.cancel()
    try:
        stub.Check(health_pb2.HealthCheckRequest(service="other"))
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("an unknown service is healthy")
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="other"))
    assert next(watch).status == 3
    watch.cancel()
print("all right")
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = echo_settings(name="twice", signature=SIGNATURE, predictor="twice:Model", serve=ServeSettings(grpc=True))
    root: Path = write_root(tmp_path_factory.mktemp("root"), settings, app={"twice.py": MODEL})
    with grpc_serve(root) as served:
        yield served.target


def _run(script: str, target: str) -> None:
    done = subprocess.run(
        [str(clients_python()), "-c", script, target], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "all right\n"), done.stderr


@pytest.mark.parametrize("script", [TRITON, KSERVE, HEALTH], ids=["tritonclient", "kserve", "health"])
def test_unmodified_clients_are_answered(target: str, script: str) -> None:
    _run(script, target)


def test_typed_contents_of_kserve(tmp_path: Path) -> None:
    signature = Signature((SIGNATURE.inputs[0], SIGNATURE.inputs[2]), (SIGNATURE.outputs[0], SIGNATURE.outputs[2]))
    settings = echo_settings(name="typed", signature=signature, predictor="typed:Model", serve=ServeSettings(grpc=True))
    with grpc_serve(write_root(tmp_path, settings, app={"typed.py": TYPED_MODEL})) as served:
        _run(TYPED, served.target)
