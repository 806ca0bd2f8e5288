"""The commands that people copy: each curl line of the reference, those of the README, and TensorFlow Serving's own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.envs import CHECKOUT
from support.plain_models import iris_root
from support.serving import Served, echo_settings, models_python, serve, trained, write_root

from intermodal_server.contract import Signature, TensorSpec

PAGE = CHECKOUT / "docs" / "reference" / "http.md"
ANYTHING = "…"


def _commands(text: str) -> list[tuple[str, str]]:
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = part.partition("\n")
            found.append((command, answer))
    return found


COMMANDS = _commands(PAGE.read_text(encoding="utf-8"))


def _said(command: str, server: Served, named: str = "localhost:8080") -> str:
    assert named in command
    shell = command.replace(named, f"127.0.0.1:{server.port}")
    return subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(iris_root(tmp_path_factory.mktemp("iris")), tcp=True) as running:
        yield running


@pytest.mark.parametrize(("command", "answer"), COMMANDS, ids=[command[:60] for command, _ in COMMANDS])
def test_the_reference_answers_as_it_says(server: Served, command: str, answer: str) -> None:
    pattern = ".*".join(re.escape(part) for part in answer.strip().split(ANYTHING))
    said = _said(command, server)
    assert re.fullmatch(pattern, said.strip(), re.DOTALL), said


def test_every_path_of_the_server_has_its_command(server: Served) -> None:
    paths = server.request("GET", "/openapi.json").json["paths"]
    shown = {match for command, _ in COMMANDS for match in re.findall(r"localhost:8080(/[^ ]*)", command)}
    left = {path for path in paths if "/versions/" not in path} - shown - {"/v2/models/iris/stats"}
    assert not left  # /v2/models/stats shows the same


def test_the_readmes_commands() -> None:
    lines = [line for line in (CHECKOUT / "README.md").read_text().splitlines() if line.startswith("$ curl")]
    assert lines
    with serve(trained("digits"), worker=models_python(), tcp=True) as server:
        for line in lines:
            assert json.loads(_said(line[2:], server))["name"] == "digits"


HALF_PLUS_TWO = """
class Model:
    def predict(self, x):
        return {"y": [value / 2 + 2 for value in x]}
"""

# as in TensorFlow Serving's documentation, "RESTful API", but for the name of the model
TENSORFLOW = [
    ("curl -s -d '{\"instances\": [1.0,2.0,5.0]}' -X POST http://localhost:8501/v1/models/half:predict", "predictions"),
    (
        "curl -s -X POST http://localhost:8501/v1/models/half/versions/1:predict "
        '-d \'{"signature_name": "serving_default", "instances": [{"x": 1.0}, {"x": 2.0}, {"x": 5.0}]}\'',
        "predictions",
    ),
    ("curl -s -d '{\"inputs\": [1.0,2.0,5.0]}' -X POST http://localhost:8501/v1/models/half:predict", "outputs"),
]


def test_tensorflow_servings_commands(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
    settings = echo_settings(name="half", predictor="half:Model", signature=signature)
    with serve(write_root(tmp_path, settings, app={"half.py": HALF_PLUS_TWO}), tcp=True) as server:
        for command, key in TENSORFLOW:
            assert json.loads(_said(command, server, "localhost:8501")) == {key: [2.5, 3.0, 4.5]}
        status = json.loads(_said("curl -s http://localhost:8501/v1/models/half", server, "localhost:8501"))
        assert status["model_version_status"][0]["state"] == "AVAILABLE"
