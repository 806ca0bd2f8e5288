"""TensorFlow Serving's REST form and KServe's V1 on the wire, as their documentation writes it; Vertex's routes."""

from __future__ import annotations

import base64
import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.plain_models import columns_root, named_root, rows_root
from support.serving import Served, serve

from intermodal_server.contract import Signature, TensorSpec

TABLE = [{"age": 41, "name": "Ada", "vip": True}, {"age": 7, "name": "", "vip": False}]
GREETED = [
    {"greeting": "Ada:41", "scores": [1.0, 3.0]},
    {"greeting": ":7", "scores": [0.0, 0.0]},
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(rows_root(tmp_path_factory.mktemp("rows"))) as running:
        yield running


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(columns_root(tmp_path_factory.mktemp("columns"))) as running:
        yield running


def _predict(server: Served, model: str, body: Any, version: str = "") -> Any:
    reply = server.request("POST", f"/v1/models/{model}{version}:predict", body)
    assert reply.status == 200, reply.body
    return reply.json


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_rows_are_answered_with_predictions(rows: Served, version: str) -> None:
    assert _predict(rows, "rows", {"instances": [[1, 2, 3], [4, 5, 6.5]]}, version) == {"predictions": [6.0, 15.5]}
    named = {"signature_name": "serving_default", "instances": [{"X": [1, 2, 3]}]}
    assert _predict(rows, "rows", named, version) == {"predictions": [6.0]}


def test_columns_are_answered_with_outputs(rows: Served) -> None:
    for inputs in ([[1, 2, 3]], {"X": [[1, 2, 3]]}):
        assert _predict(rows, "rows", {"inputs": inputs}) == {"outputs": [6.0]}


def test_several_outputs_have_names(columns: Served) -> None:
    assert _predict(columns, "columns", {"instances": TABLE}) == {"predictions": GREETED}
    inputs = {name: [row[name] for row in TABLE] for name in TABLE[0]}
    answer = {"outputs": {"greeting": ["Ada:41", ":7"], "scores": [[1.0, 3.0], [0.0, 0.0]]}}
    assert _predict(columns, "columns", {"inputs": inputs}) == answer


def test_b64_stands_for_bytes(columns: Served) -> None:
    text = {"b64": base64.b64encode("Zoë".encode()).decode()}
    row = {"age": 1, "name": text, "vip": False}
    assert _predict(columns, "columns", {"instances": [row]})["predictions"][0]["greeting"] == "Zoë:1"


def test_depth_and_bad_base64_are_the_clients_mistake(columns: Served, tmp_path: Path) -> None:
    signature = Signature((TensorSpec("X", "BYTES", (-1,)),), ())
    for depth in (100, 400, 800, 5000):
        deep = "[" * depth + "]" * depth
        body = f'{{"inputs": {{"age": [1], "name": {deep}, "vip": [true]}}}}'.encode()
        assert columns.request("POST", "/v1/models/columns:predict", body).status == 400
    bad = {"inputs": {"age": [1], "name": [{"b64": "!"}], "vip": [True]}}
    assert columns.request("POST", "/v1/models/columns:predict", bad).json == {"error": "a b64 value is not base64"}
    with serve(rows_root(tmp_path, signature=signature)) as server:
        for values in ([{"b64": "!"}], json.loads("[" * 400 + "]" * 400)):
            assert server.request("POST", "/v1/models/rows:predict", {"instances": values}).status == 400


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "one of"),
        ([[1, 2, 3]], "one of"),
        ({"instances": [[1, 2, 3]], "inputs": [[1, 2, 3]]}, "one of"),
        ({"instances": [[1, 2, 3]], "signature_name": "other"}, "one signature"),
        ({"instances": [[1, 2, 3]], "signature_name": 3}, "must be a string"),
        ({"instances": []}, "list of rows"),
        ({"instances": [[1, 2]]}, "shape [1, 2]"),
        ({"instances": [[1, 2, "x"]]}, "not FP64"),
        ({"instances": [{"Y": [1, 2, 3]}]}, "these fields: X"),
        ({"inputs": {"Y": [[1, 2, 3]]}}, "no input 'Y'"),
    ],
)
def test_what_is_wrong_is_said(rows: Served, body: Any, told: str) -> None:
    reply = rows.request("POST", "/v1/models/rows:predict", body)
    assert reply.status == 400
    assert told in reply.json["error"]


def test_status_is_read_by_tensorflow_and_kserve_clients(rows: Served) -> None:
    version = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/rows", "/v1/models/rows/versions/1"):
        reply = rows.request("GET", path)
        assert reply.json == {"name": "rows", "ready": True, "model_version_status": [version]}
    assert rows.request("GET", "/v1/models").json == {"models": ["rows"]}
    assert rows.request("GET", "/v1/models/other").json == {"error": "there is no model of this name"}
    assert rows.request("POST", "/v1/models/other:predict", {}).status == 404
    assert rows.request("POST", "/v1/models/rows/versions/2:predict", {}).json == {
        "error": "there is no such version of this model"
    }


def test_metadata_is_a_signature_def(columns: Served) -> None:
    document = columns.request("GET", "/v1/models/columns/metadata").json
    assert document["model_spec"] == {"name": "columns", "signature_name": "", "version": "1"}
    definition = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["inputs"]["name"]["dtype"] == "DT_STRING"
    assert definition["outputs"]["scores"]["tensor_shape"]["dim"] == [
        {"size": "-1", "name": ""},
        {"size": "2", "name": ""},
    ]


def test_outputs_without_common_rows_are_refused_by_row_only(tmp_path: Path) -> None:
    with serve(named_root(tmp_path)) as server:
        inputs = {"n": [[1, 2], [3, 4], [5, 6]], "s": ["a"]}
        assert server.request("POST", "/v1/models/twice:predict", {"inputs": inputs}).json == {
            "outputs": {"twice": [[2, 4], [6, 8], [10, 12]], "loud": ["A"]}
        }


def test_vertex_names_its_own_paths(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"AIP_HEALTH_ROUTE": "/healthz", "AIP_PREDICT_ROUTE": "/predict", "AIP_HTTP_PORT": port}
    with serve(rows_root(tmp_path), exact=variables, port="", metrics_port=0) as server:
        assert server.request("GET", "/healthz").json == {"ready": True}
        reply = server.request("POST", "/predict", {"instances": [[1, 2, 3]], "parameters": {}})
        assert reply.json == {"predictions": [6.0]}
        url = f"http://127.0.0.1:{port}/openapi.json"
        with urllib.request.urlopen(url) as answer:
            assert {"/healthz", "/predict"} <= set(json.load(answer)["paths"])
