"""Unmodified tritonclient (HTTP) against the server: the client that Triton, KServe and MLServer users have."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.grpc_clients import clients_python
from support.plain_models import named_root
from support.serving import echo_settings, serve, write_root

from intermodal_server.contract import Signature, TensorSpec

CLIENT = r"""
import asyncio, sys
import numpy as np
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client
from tritonclient.utils import InferenceServerException

url = sys.argv[1]
n = np.array([[1.5, 2.0], [3.0, -4.0]])
s = np.array(["a", "\u00fc"], dtype=object)

def tensors(module, binary, n=n, s=s):
    inputs = [module.InferInput("n", list(n.shape), "FP64"), module.InferInput("s", list(s.shape), "BYTES")]
    inputs[0].set_data_from_numpy(n, binary_data=binary)
    inputs[1].set_data_from_numpy(s, binary_data=binary)
    return inputs

def right(result, n=n):
    assert (result.as_numpy("twice") == 2 * n).all(), result.as_numpy("twice")
    loud = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("loud")]
    assert loud == ["A", "\u00dc"], loud

client = sync_client.InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("twice")
assert client.is_model_ready("twice", "1") and not client.is_model_ready("other")
assert client.get_server_metadata()["name"] == "intermodal"
assert client.get_model_metadata("twice")["inputs"][0]["datatype"] == "FP64"
assert client.get_model_repository_index() == [{"name": "twice", "version": "1", "state": "READY", "reason": ""}]
config = client.get_model_config("twice", "1")
assert config["input"][1] == {"name": "s", "data_type": "TYPE_STRING", "dims": [-1]}, config
asked = 0
for binary in (True, False):
    right(client.infer("twice", tensors(sync_client, binary)))
    asked += 1
    for binary_out in (True, False):
        wanted = [sync_client.InferRequestedOutput(name, binary_data=binary_out) for name in ("loud", "twice")]
        more = {"request_id": "id 7", "model_version": "1"}
        result = client.infer("twice", tensors(sync_client, binary), outputs=wanted, **more)
        right(result)
        asked += 1
        assert result.get_response()["id"] == "id 7"
    for algorithm in ("gzip", "deflate"):
        right(client.infer("twice", tensors(sync_client, binary), request_compression_algorithm=algorithm,
                           response_compression_algorithm=algorithm))
        asked += 1
        many = np.arange(20000.0).reshape(-1, 2) % 7
        wanted = [sync_client.InferRequestedOutput(name, binary_data=binary) for name in ("loud", "twice")]
        right(client.infer("twice", tensors(sync_client, binary, many), outputs=wanted,
                           request_compression_algorithm=algorithm, response_compression_algorithm=algorithm), many)
        asked += 1
right(client.async_infer("twice", tensors(sync_client, True)).get_result())
asked += 1
classes = sync_client.InferRequestedOutput("twice", class_count=1)
result = client.infer("twice", tensors(sync_client, True), outputs=[classes])
assert result.as_numpy("twice").tolist() == [[b"4.000000:1"], [b"6.000000:0"]], result.as_numpy("twice")
asked += 1
stats = client.get_inference_statistics("twice", "1")["model_stats"][0]
assert stats["inference_stats"]["success"]["count"] == asked, (asked, stats)
assert stats["inference_stats"]["success"]["ns"] > 0 and stats["last_inference"] > 1e12, stats
assert client.get_inference_statistics()["model_stats"][0]["name"] == "twice"
try:
    client.infer("other", tensors(sync_client, True))
except InferenceServerException as error:
    assert error.status() == "404" and error.message() == "there is no model of this name", str(error)
else:
    raise AssertionError("an unknown model answered")

async def asynchronous():
    async with aio_client.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_config("twice"))["name"] == "twice"
        for binary in (True, False):
            right(await client.infer("twice", tensors(aio_client, binary)))
            many = np.zeros((5000, 2))
            for algorithm in ("gzip", "deflate"):
                right(await client.infer("twice", tensors(aio_client, binary, many),
                                         request_compression_algorithm=algorithm,
                                         response_compression_algorithm=algorithm), many)
        results = await asyncio.gather(*[client.infer("twice", tensors(aio_client, True)) for _ in range(50)])
        for result in results:
            right(result)

asyncio.run(asynchronous())
print("all right")
"""

HALVES = r"""
import asyncio, sys
import numpy as np
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client

url = sys.argv[1]
x = np.array([[1.5, -2.25, 65504.0], [6.1e-5, np.nan, np.inf]], dtype=np.float16)

def asked(module):
    tensor = module.InferInput("x", list(x.shape), "FP16")
    tensor.set_data_from_numpy(x)
    return [tensor]

def right(answer):
    assert answer.as_numpy("y").dtype == np.float16
    np.testing.assert_array_equal(answer.as_numpy("y"), x)

right(sync_client.InferenceServerClient(url).infer("halves", asked(sync_client)))

async def asynchronous():
    async with aio_client.InferenceServerClient(url) as client:
        right(await client.infer("halves", asked(aio_client)))

asyncio.run(asynchronous())
print("all right")
"""

SAME = """
class Model:
    def predict(self, x):
        return {"y": x}
"""


def _run(script: str, port: int) -> None:
    done = subprocess.run(
        [str(clients_python()), "-c", script, f"127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all right"


def test_unmodified_tritonclient(tmp_path: Path) -> None:
    with serve(named_root(tmp_path / "root"), tcp=True) as server:
        _run(CLIENT, server.port)


def test_half_precision_in_both_clients(tmp_path: Path) -> None:
    spec = (TensorSpec("x", "FP16", (-1, 3)),), (TensorSpec("y", "FP16", (-1, 3)),)
    settings = echo_settings(name="halves", predictor="halves:Model", signature=Signature(*spec))
    root = write_root(tmp_path / "root", settings, app={"halves.py": SAME})
    worker = clients_python()  # has numpy, which keeps FP16 as it is
    with serve(root, tcp=True, worker=worker) as server:
        _run(HALVES, server.port)
