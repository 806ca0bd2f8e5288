"""Real models answer through the server as they answered where they were trained."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.envs import training_python
from support.serving import CODE_DIR, Served, echo_root, echo_settings, models_python, serve, trained, write_root

from intermodal_server.contract import ModelSettings, Signature, TensorSpec


def golden(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((trained(name) / "etc/intermodal/golden.json").read_text())["cases"]
    return cases


def outputs(server: Served, name: str, request: dict[str, Any]) -> dict[str, Any]:
    reply = server.request("POST", f"/v2/models/{name}/infer", request)
    assert reply.status == 200, reply.body
    return {output["name"]: output for output in reply.json["outputs"]}


def test_sklearn_pipeline_by_json_and_binary_over_socket_and_tcp() -> None:
    case = golden("digits")[1]
    with serve(trained("digits"), worker=models_python(), tcp=True) as server:
        found = outputs(server, "digits", case["request"])
        recorded = {output["name"]: output for output in case["response"]["outputs"]}
        assert found == recorded
        assert found["probabilities"]["shape"] == [16, 10]
        raw = struct.pack("<1024d", *case["request"]["inputs"][0]["data"])
        head = json.dumps(
            {
                "inputs": [
                    {"name": "X", "datatype": "FP64", "shape": [16, 64], "parameters": {"binary_data_size": 8192}}
                ],
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "probabilities"}, {"name": "label", "parameters": {"binary_data": False}}],
            }
        ).encode()
        reply = server.request(
            "POST",
            "/v2/models/digits/versions/1/infer",
            head + raw,
            {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/json"},
        )
        assert reply.status == 200, reply.body
        size = int(reply.headers["inference-header-content-length"])
        first, second = json.loads(reply.body[:size])["outputs"]
        assert first == {
            "name": "probabilities",
            "datatype": "FP64",
            "shape": [16, 10],
            "parameters": {"binary_data_size": 1280},
        }
        assert list(struct.unpack("<160d", reply.body[size:])) == recorded["probabilities"]["data"]
        assert second["data"] == recorded["label"]["data"]
        assert any(line.get("estimators") == ["RandomForestClassifier"] for line in server.log())
        metadata = server.request("GET", "/v2/models/digits").json
        assert metadata["inputs"] == [{"name": "X", "datatype": "FP64", "shape": [-1, 64]}]
        assert metadata["outputs"][0] == {"name": "label", "datatype": "INT64", "shape": [-1]}
        wrong = server.request("POST", "/predict", {"instances": [[1.0, 2.0]]})
        assert wrong.json == {"error": "input 'X' has shape [1, 2], the model takes [-1, 64]"}


@pytest.mark.parametrize(
    ("name", "row", "told"), [("regressor", [None] * 4, "NaN"), ("digits", [1e300] * 64, "too large")]
)
def test_values_that_scikit_learn_refuses_are_the_clients_mistake(name: str, row: list[Any], told: str) -> None:
    with serve(trained(name), worker=models_python()) as server:
        reply = server.request("POST", "/predict", {"inputs": {"X": [row]}})
        assert (reply.status, told in reply.json.get("error", "")) == (400, True), reply.body


def test_columns_with_strings_and_nulls() -> None:
    with serve(trained("columns"), worker=models_python()) as server:
        case = golden("columns")[0]
        found = outputs(server, "columns", case["request"])
        assert found["label"]["datatype"] == "BYTES" and set(found["label"]["data"]) <= {"yes", "no"}
        row = {"colour": "grün", "size": 0.5, "count": 3}
        by_row = server.request("POST", "/predict", {"instances": [row, {**row, "colour": "never seen"}]}).json
        assert by_row["outputs"]["label"][0] in ("yes", "no") and len(by_row["outputs"]["probabilities"][0]) == 2
        by_name = server.request("POST", "/predict", {"inputs": {name: [value] for name, value in row.items()}}).json
        by_list = server.request("POST", "/predict", {"instances": [list(row.values())]}).json
        assert by_name == by_list
        assert by_name["outputs"]["label"][0] == by_row["outputs"]["label"][0]
        null = server.request("POST", "/predict", {"instances": [{**row, "colour": None}]})
        assert null.status == 200  # an unknown category, as None is in the training environment
        short = server.request("POST", "/predict", {"inputs": {"colour": ["red"], "size": [1.0, 2.0], "count": [1]}})
        assert short.json == {"error": "the inputs have different numbers of rows"}


def test_regressor_and_skops() -> None:
    with serve(trained("regressor"), worker=models_python()) as server:
        case = golden("regressor")[0]
        assert list(outputs(server, "regressor", case["request"])) == ["prediction"]
    with serve(trained("skops"), worker=models_python()) as server:
        assert set(outputs(server, "skops", golden("skops")[0]["request"])) == {"label", "probabilities"}


def test_skops_types_that_inspect_allowed_are_not_asked_for_again() -> None:
    with serve(trained("boosted"), worker=models_python()) as server:
        assert set(outputs(server, "boosted", golden("boosted")[0]["request"])) == {"label", "probabilities"}


def test_a_vectorizer_gets_texts() -> None:
    with serve(trained("text"), worker=models_python()) as server:
        recorded = golden("text")[0]
        assert outputs(server, "text", recorded["request"])["label"]["data"] == [1, 0]
        by_row = server.request("POST", "/predict", {"instances": ["schön", "slow"]}).json
        assert by_row["outputs"]["label"] == [1, 0]


def onnx_file(folder: Path) -> bytes:
    """y = x + 1 (FP32, any rows) and t = s (strings), made by the onnx package in an environment of its own."""
    script = """
import sys, onnx
from onnx import TensorProto as T, helper as h
graph = h.make_graph(
    [h.make_node("Add", ["x", "one"], ["y"]), h.make_node("Identity", ["s"], ["t"])], "g",
    [h.make_tensor_value_info("x", T.FLOAT, [None, 2]), h.make_tensor_value_info("s", T.STRING, [None])],
    [h.make_tensor_value_info("y", T.FLOAT, [None, 2]), h.make_tensor_value_info("t", T.STRING, [None])],
    [h.make_tensor("one", T.FLOAT, [1], [1.0])],
)
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)
open(sys.argv[1], "wb").write(model.SerializeToString())
"""
    target = folder / "made.onnx"
    subprocess.run([str(training_python("onnx")), "-c", script, str(target)], check=True)
    return target.read_bytes()


def test_onnx_keeps_its_own_names_and_types(tmp_path: Path) -> None:
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1,))),
        (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("t", "BYTES", (-1,))),
    )
    settings = ModelSettings("plus", "3", "onnx", "onnx", "plus.onnx", signature, call="named")
    root = write_root(tmp_path / "root", settings, model={"plus.onnx": onnx_file(tmp_path)})
    with serve(root, worker=models_python()) as server:
        request = {
            "inputs": [
                {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["ä"]},
                {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1, 0.5]]},
            ]
        }
        found = outputs(server, "plus", request)
        assert found["y"] == {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 1.5]}
        assert found["t"]["data"] == ["ä"]
        named = server.request("POST", "/v2/models/plus/infer", {**request, "outputs": [{"name": "t"}]}).json
        assert [output["name"] for output in named["outputs"]] == ["t"] and named["model_version"] == "3"


PREDICTOR = """
print("noise on standard output")
class Model:
    def load(self, folder):
        self.add = int((folder / "add.txt").read_text())
    def predict(self, n, s):
        return {ANSWER}
"""


@pytest.mark.parametrize("numpy", [True, False])
def test_predictor_gets_arrays_with_numpy_and_lists_without(tmp_path: Path, numpy: bool) -> None:
    answer = (
        '{"kind": [type(n).__name__], "sum": n + self.add, "upper": [v.upper() for v in s]}'
        if numpy
        else '{"kind": [type(n).__name__], "sum": [v + self.add for v in n], "upper": [v.upper() for v in s]}'
    )
    signature = Signature((TensorSpec("n", "INT64", (-1,)), TensorSpec("s", "BYTES", (-1,))), ())
    settings = echo_settings(predictor="mine:Model", signature=signature, artifact="add.txt")
    app = {"mine.py": PREDICTOR.replace("{ANSWER}", answer)}
    root = write_root(tmp_path, settings, app=app, model={"add.txt": b"10"})
    with serve(root, worker=models_python() if numpy else None) as server:
        reply = server.request("POST", "/predict", {"inputs": {"n": [1, 2], "s": ["a", "ü"]}})
        assert reply.json == {
            "outputs": {"kind": ["ndarray" if numpy else "list"], "sum": [11, 12], "upper": ["A", "Ü"]}
        }


def test_front_and_worker_share_no_package(tmp_path: Path) -> None:
    reports = (
        "import sys\nclass Model:\n    def predict(self, x):\n"
        "        try:\n            import httptools\n        except ImportError:\n            return {'y': [0.0]}\n"
        "        return {'y': [1.0]}\n"
    )
    root = write_root(tmp_path, echo_settings(predictor="reports:Model"), app={"reports.py": reports})
    with serve(root, worker=models_python()) as server:
        assert server.infer([1]).json["outputs"][0]["data"] == [0.0]


def replay(folder: Path, settings: ModelSettings, requests: list[Any], python: Path | str) -> tuple[int, Any]:
    path = folder / "settings.json"
    path.write_bytes(settings.to_json())
    command = [str(python), "-I", str(CODE_DIR), "replay", "--settings", str(path), "--model-dir", str(folder)]
    done = subprocess.run(
        [*command, "--app-dir", str(folder)], input=json.dumps({"requests": requests}).encode(), capture_output=True
    )
    return done.returncode, json.loads(done.stdout)


def test_replay_answers_in_this_interpreter_and_names_what_it_used(tmp_path: Path) -> None:
    settings = ModelSettings.from_json((trained("digits") / "etc/intermodal/model.json").read_bytes())
    (tmp_path / "model.joblib").symlink_to(trained("digits") / "model/model.joblib")
    loose = ModelSettings(**{**settings.__dict__, "files": ()})
    case = golden("digits")[0]
    status, document = replay(tmp_path, loose, [case["request"], {"inputs": []}], models_python())
    assert status == 0
    assert document["responses"][0] == case["response"]
    assert "'X' is missing" in document["responses"][1]["error"]
    environment = document["environment"]
    assert environment["distributions"]["scikit-learn"] == "1.9.1" and "numpy" in environment["distributions"]
    assert environment["signature"]["outputs"][1] == {"name": "probabilities", "datatype": "FP64", "shape": [-1, 10]}


def test_replay_keeps_the_models_prints_out_of_its_answer(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "print('at import')\nclass Model:\n    def predict(self, x):\n        print(x)\n        return x\n"
    )
    request = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [None]}]}
    status, document = replay(tmp_path, echo_settings(predictor="mine:Model"), [request], sys.executable)
    assert status == 0 and document["responses"][0]["outputs"][0]["data"] == [None]


def test_replay_says_what_cannot_be_loaded(tmp_path: Path) -> None:
    status, document = replay(tmp_path, echo_settings(predictor="absent:Model"), [], sys.executable)
    assert (status, document) == (1, {"error": "the model needs a package that is not there: No module named 'absent'"})


def test_health_probe_of_the_image(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), tcp=True) as server:
        probe = [sys.executable, "-I", "-S", str(CODE_DIR), "health"]
        assert subprocess.run(probe, env=server.environment).returncode == 0
        tcp = {**server.environment, "INTERMODAL_SOCKET": ""}
        assert subprocess.run([*probe, "live"], env=tcp).returncode == 0
        other = {**server.environment, "INTERMODAL_SOCKET": str(tmp_path / "none")}
        failed = subprocess.run(probe, env=other, capture_output=True)
        assert failed.returncode == 1 and b"no answer" in failed.stdout
