"""Unmodified MLflow: its scoring client, and bodies that its own functions write, for arrays and for tables."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.grpc_clients import clients_python
from support.plain_models import columns_root, rows_root
from support.serving import serve

CLIENT = r"""
import sys
import numpy as np
import pandas as pd
import requests
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.utils.proto_json_utils import dump_input_data

rows, columns = (int(port) for port in sys.argv[1:3])

client = ScoringServerClient("127.0.0.1", rows)
client.ping()
client.wait_server_ready(timeout=5)
assert client.get_version().startswith("intermodal ")
x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
for data in (x, pd.DataFrame(x, columns=["a", "b", "c"]), pd.DataFrame(x), x.tolist()):
    answer = client.invoke(data)
    assert answer.get_predictions("ndarray").tolist() == [6.0, 15.0], answer
    assert list(answer.get_predictions()[0]) == [6.0, 15.0]
holes = client.invoke(pd.DataFrame([[1.0, np.nan, 3.0]], columns=["a", "b", "c"]))
assert holes["predictions"] == [None], holes  # as the model answers a NaN
for key in ("inputs", "instances"):
    body = dump_input_data(x, inputs_key=key)
    reply = requests.post(f"http://127.0.0.1:{rows}/invocations", body, headers={"Content-Type": "application/json"})
    assert reply.json() == {"predictions": [6.0, 15.0]}, reply.text
try:
    client.invoke(x[:, :2])
except Exception as error:
    assert "error code 400" in str(error) and "shape [2, 2]" in str(error), error
else:
    raise AssertionError("a wrong shape was answered")

client = ScoringServerClient("127.0.0.1", columns)
table = pd.DataFrame({"vip": [True, False], "name": ["Ada", "Zo\u00eb"], "age": [41, 7]})
answer = client.invoke(table)
assert answer["predictions"] == {"greeting": ["Ada:41", "Zo\u00eb:7"], "scores": [[1.0, 3.0], [0.0, 3.0]]}, answer
for body, kind in (
    (table.to_csv(index=False), "text/csv"),
    (table.to_csv(index=False), "text/csv; charset=utf-8"),
):
    reply = requests.post(f"http://127.0.0.1:{columns}/invocations", body.encode(), headers={"Content-Type": kind})
    assert reply.json() == answer, reply.text
print("all right")
"""


def test_unmodified_mlflow_client(tmp_path: Path) -> None:
    with (
        serve(rows_root(tmp_path / "rows"), tcp=True) as rows,
        serve(columns_root(tmp_path / "c"), tcp=True) as columns,
    ):
        ports = [str(server.port) for server in (rows, columns)]
        done = subprocess.run(
            [str(clients_python()), "-c", CLIENT, *ports], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("all right")
