"""Unmodified tritonclient (HTTP) against the server: the client that Triton, KServe and MLServer users have."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.envs import training_python
from support.serving import echo_settings, serve, write_root

from intermodal_server.contract import Signature, TensorSpec

TWICE = """
class Model:
    def predict(self, n, s):
        return {"twice": [[2.0 * v for v in row] for row in n], "loud": [v.upper() for v in s]}
"""

CLIENT = r"""
import asyncio, sys
import numpy as np
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client
from tritonclient.utils import InferenceServerException

url = sys.argv[1]
n = np.array([[1.5, 2.0], [3.0, -4.0]])
s = np.array(["a", "\u00fc"], dtype=object)

def tensors(module, binary):
    inputs = [module.InferInput("n", [2, 2], "FP64"), module.InferInput("s", [2], "BYTES")]
    inputs[0].set_data_from_numpy(n, binary_data=binary)
    inputs[1].set_data_from_numpy(s, binary_data=binary)
    return inputs

def right(result):
    assert (result.as_numpy("twice") == 2 * n).all(), result.as_numpy("twice")
    loud = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("loud")]
    assert loud == ["A", "\u00dc"], loud

client = sync_client.InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("twice")
assert client.is_model_ready("twice", "1") and not client.is_model_ready("other")
assert client.get_server_metadata()["name"] == "intermodal"
assert client.get_model_metadata("twice")["inputs"][0]["datatype"] == "FP64"
assert client.get_model_repository_index() == [{"name": "twice", "version": "1", "state": "READY", "reason": ""}]
for binary in (True, False):
    right(client.infer("twice", tensors(sync_client, binary)))
    for binary_out in (True, False):
        wanted = [sync_client.InferRequestedOutput(name, binary_data=binary_out) for name in ("loud", "twice")]
        more = {"request_id": "id 7", "model_version": "1"}
        result = client.infer("twice", tensors(sync_client, binary), outputs=wanted, **more)
        right(result)
        assert result.get_response()["id"] == "id 7"
    for algorithm in ("gzip", "deflate"):
        right(client.infer("twice", tensors(sync_client, binary), request_compression_algorithm=algorithm,
                           response_compression_algorithm=algorithm))
right(client.async_infer("twice", tensors(sync_client, True)).get_result())
try:
    client.infer("other", tensors(sync_client, True))
except InferenceServerException as error:
    assert error.status() == "404" and error.message() == "there is no model of this name", str(error)
else:
    raise AssertionError("an unknown model answered")

async def asynchronous():
    async with aio_client.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        for binary in (True, False):
            right(await client.infer("twice", tensors(aio_client, binary)))
        results = await asyncio.gather(*[client.infer("twice", tensors(aio_client, True)) for _ in range(50)])
        for result in results:
            right(result)

asyncio.run(asynchronous())
print("all right")
"""


def test_unmodified_tritonclient(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("n", "FP64", (-1, 2)), TensorSpec("s", "BYTES", (-1,))), ())
    settings = echo_settings(name="twice", predictor="twice:Model", signature=signature)
    root = write_root(tmp_path / "root", settings, app={"twice.py": TWICE})
    python = training_python("tritonclient[http]")
    with serve(root, tcp=True) as server:
        done = subprocess.run(
            [str(python), "-c", CLIENT, f"127.0.0.1:{server.port}"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "all right"
