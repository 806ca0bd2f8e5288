"""V2 on the wire, as kserve, `mlserver infer` and curl were seen to speak it."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.serving import Served, echo_root, infer_body, serve

INFER = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root)) as running:
        yield running


def test_probes_answer_as_kserve_reads_them(server: Served) -> None:
    assert server.request("GET", "/v2/health/live").json == {"live": True}
    assert server.request("GET", "/v2/health/ready").json == {"ready": True}
    assert server.request("GET", "/v2/models/echo/ready").json == {"name": "echo", "ready": True}
    assert server.request("GET", "/v2/models/echo/versions/1/ready").status == 200
    assert server.request("HEAD", "/v2/health/ready").body == b""


def test_metadata_names_server_and_model(server: Served) -> None:
    assert set(server.request("GET", "/v2").json) == {"name", "version", "extensions"}
    assert server.request("GET", "/v2/models/echo").json == {
        "name": "echo",
        "versions": ["1"],
        "platform": "predictor",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
    }


def test_id_is_echoed_only_when_given(server: Served) -> None:
    assert server.request("POST", INFER, infer_body([1], id="a b")).json["id"] == "a b"
    assert "id" not in server.request("POST", INFER, infer_body([1])).json


@pytest.mark.parametrize(
    "kind", ["", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_content_type_does_not_decide_how_the_body_is_read(server: Served, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    assert server.request("POST", INFER, infer_body([1]), headers).json["outputs"][0]["data"] == [2.0]
    head = json.dumps({"inputs": [_binary_input(8)]}).encode()
    headers["Inference-Header-Content-Length"] = str(len(head))
    reply = server.request("POST", INFER, head + struct.pack("<d", 4.0), headers)
    assert reply.json["outputs"][0]["data"] == [8.0]


def test_json_in_and_binary_out_as_mlserver_infer_asks(server: Served) -> None:
    reply = server.request("POST", INFER, infer_body([1.5], parameters={"binary_data_output": True}))
    size = int(reply.headers["inference-header-content-length"])
    assert struct.unpack("<d", reply.body[size:]) == (3.0,)


def test_an_outputs_own_binary_data_wins(server: Served) -> None:
    wanted = [{"name": "y", "parameters": {"binary_data": False}}]
    reply = server.request("POST", INFER, infer_body([1], parameters={"binary_data_output": True}, outputs=wanted))
    assert "inference-header-content-length" not in reply.headers
    assert reply.json["outputs"][0]["data"] == [2.0]


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_body_with_a_binary_part(server: Served, encoding: str, pack: Any) -> None:
    head = json.dumps({"inputs": [_binary_input(8)]}).encode()
    headers = {"Content-Encoding": encoding, "Inference-Header-Content-Length": str(len(head))}
    reply = server.request("POST", INFER, pack(head + struct.pack("<d", 2.0)), headers)
    assert reply.json["outputs"][0]["data"] == [4.0]


def test_null_stands_for_nan_both_ways(server: Served) -> None:
    assert server.infer([1.0, None]).json["outputs"][0]["data"] == [2.0, None]


def test_infinity_travels_in_binary(server: Served) -> None:
    head = json.dumps({"inputs": [_binary_input(8)], "parameters": {"binary_data_output": True}}).encode()
    body = head + struct.pack("<d", float("inf"))
    reply = server.request("POST", INFER, body, {"Inference-Header-Content-Length": str(len(head))})
    assert reply.body.endswith(struct.pack("<d", float("inf")))


def test_predict_in_both_forms(server: Served) -> None:
    for body in ({"inputs": {"x": [1, 2]}}, {"instances": [1, 2]}, {"instances": [{"x": 1}, {"x": 2}]}):
        assert server.request("POST", "/predict", body).json == {"outputs": {"y": [2.0, 4.0]}}


def test_repository_index_and_nothing_that_loads(server: Served) -> None:
    reply = server.request("POST", "/v2/repository/index", b"")
    assert reply.json == [{"name": "echo", "version": "1", "state": "READY", "reason": ""}]
    for path in ("/v2/repository/models/echo/load", "/v2/repository/models/echo/unload", "/metrics", "/admin"):
        assert server.request("POST", path, b"{}").status == 404


def _binary_input(size: int) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP64", "shape": [size // 8], "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(("coding", "bits"), [("gzip", 31), ("deflate", 15)])
def test_large_answers_are_compressed_for_who_asks_for_it_alone(server: Served, coding: str, bits: int) -> None:
    plain = server.request("POST", INFER, infer_body([1.5] * 1000))
    packed = server.request("POST", INFER, infer_body([1.5] * 1000), {"Accept-Encoding": coding})
    assert packed.headers["content-encoding"] == coding
    assert zlib.decompress(packed.body, bits) == plain.body
    for asked in (f"{coding}, br", "identity", "br"):
        reply = server.request("POST", INFER, infer_body([1.5] * 1000), {"Accept-Encoding": asked})
        assert ("content-encoding" in reply.headers, reply.body) == (False, plain.body)
    small = server.request("POST", INFER, infer_body([1.5]), {"Accept-Encoding": coding})
    assert "content-encoding" not in small.headers


def test_what_does_not_shrink_goes_out_as_it_is(server: Served) -> None:
    chance = random.Random(7)
    noise = [chance.random() for _ in range(40_000)]
    body = infer_body(noise, parameters={"binary_data_output": True})
    reply = server.request("POST", INFER, body, {"Accept-Encoding": "gzip"})
    assert "content-encoding" not in reply.headers
    size = int(reply.headers["inference-header-content-length"])
    assert struct.unpack(f"<{len(noise)}d", reply.body[size:]) == tuple(2 * value for value in noise)


def test_large_answers_are_compressed_in_a_thread(server: Served) -> None:
    packed = server.request("POST", INFER, infer_body([0.5] * 40_000), {"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(packed.body))["outputs"][0]["data"] == [1.0] * 40_000


def test_classes_instead_of_values(server: Served) -> None:
    wanted = [{"name": "y", "parameters": {"classification": 2}}]
    answer = server.request("POST", INFER, infer_body([1, 5, None, 3], outputs=wanted)).json["outputs"][0]
    assert (answer["datatype"], answer["shape"], answer["data"]) == ("BYTES", [2], ["10.000000:1", "6.000000:3"])
    for count in (-1, "2", 1.5, True):
        wanted = [{"name": "y", "parameters": {"classification": count}}]
        assert server.request("POST", INFER, infer_body([1], outputs=wanted)).status == 400


def test_statistics_count_what_asked_the_model(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path)) as server:
        server.infer([1.0, 2.0])
        server.infer([3.0])
        server.infer(["x"])
        server.request("POST", "/predict", {"instances": [1]})
        server.request("GET", "/v2/health/ready")
        for path in ("/v2/models/stats", "/v2/models/echo/stats", "/v2/models/echo/versions/1/stats"):
            (found,) = server.request("GET", path).json["model_stats"]
            assert (found["name"], found["version"]) == ("echo", "1")
            stats = found["inference_stats"]
            assert (stats["success"]["count"], stats["fail"]["count"]) == (3, 1)
            assert 0 < stats["fail"]["ns"] < 60e9
            assert stats["success"]["ns"] >= stats["queue"]["ns"] + stats["compute_infer"]["ns"]


def test_configuration_in_tritons_words(server: Served) -> None:
    for path in ("/v2/models/echo/config", "/v2/models/echo/versions/1/config"):
        config = server.request("GET", path).json
        assert (config["name"], config["backend"], config["max_batch_size"]) == ("echo", "predictor", 0)
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP64", "dims": [-1]}]
        assert config["output"] == [{"name": "y", "data_type": "TYPE_FP64", "dims": [-1]}]
