"""Unmodified kserve (InferenceRESTClient), in both of its protocols, as JSON and as binary."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.grpc_clients import clients_python
from support.plain_models import columns_root, rows_root
from support.serving import serve

CLIENT = r"""
import asyncio, sys
import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

rows, columns = sys.argv[1:3]

async def v1():
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    assert await client.is_server_live(rows) and await client.is_model_ready(rows, "rows")
    answer = await client.infer(rows, {"instances": [[1, 2, 3], [4, 5, 6]]}, model_name="rows")
    assert answer == {"predictions": [6.0, 15.0]}, answer

def table(binary):
    age, name, vip = InferInput("age", [2], "INT64"), InferInput("name", [2], "BYTES"), InferInput("vip", [2], "BOOL")
    age.set_data_from_numpy(np.array([41, 7]), binary_data=binary)
    name.set_data_from_numpy(np.array(["Ada", "Zo\u00eb"], dtype=object), binary_data=binary)
    vip.set_data_from_numpy(np.array([True, False]), binary_data=binary)
    return [age, name, vip]

async def v2():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await client.is_server_live(columns) and await client.is_server_ready(columns)
    assert await client.is_model_ready(columns, "columns")
    for binary in (True, False):
        for binary_out in (True, False):
            wanted = [RequestedOutput(name, {"binary_data": binary_out}) for name in ("scores", "greeting")]
            request = InferRequest("columns", table(binary), request_id="id 7", request_outputs=wanted)
            answer = await client.infer(columns, request, model_name="columns")
            assert answer.id == "id 7"
            found = {output.name: output.as_numpy().tolist() for output in answer.outputs}
            assert found["scores"] == [[1.0, 3.0], [0.0, 3.0]], found
            said = [v.decode() if isinstance(v, bytes) else v for v in found["greeting"]]
            assert said == ["Ada:41", "Zo\u00eb:7"], found
    try:
        await client.infer(columns, InferRequest("other", table(True)), model_name="other")
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == 404 and "no model of this name" in str(error), str(error)
    else:
        raise AssertionError("an unknown model answered")

asyncio.run(v1())
asyncio.run(v2())
print("all right")
"""


def test_unmodified_kserve_client(tmp_path: Path) -> None:
    with (
        serve(rows_root(tmp_path / "rows"), tcp=True) as rows,
        serve(columns_root(tmp_path / "c"), tcp=True) as columns,
    ):
        urls = [f"http://127.0.0.1:{server.port}" for server in (rows, columns)]
        done = subprocess.run(
            [str(clients_python()), "-c", CLIENT, *urls], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("all right")
