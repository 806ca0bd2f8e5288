"""Every kind of input ships: text beside numbers, ONNX of other people, plain Python, a bare file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import CHECKOUT, intermodal
from support.envs import CACHE, training_python

# the store of the second readers has every example's layers already
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.sandbox, pytest.mark.xdist_group("second-readers")]
HOME = CACHE / "second-readers"
IGNORED = shutil.ignore_patterns("pylock.*", "*.onnx", "*.npy", "__pycache__")


@pytest.fixture(autouse=True)
def home() -> None:
    HOME.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("name", ["passengers", "predictor"])
def test_an_example_ships(name: str, tmp_path: Path) -> None:
    project = shutil.copytree(CHECKOUT / "examples" / name, tmp_path / name, ignore=IGNORED)
    shipped = intermodal("ship", project, "--json", home=HOME)
    assert shipped.code == 0, shipped.out + shipped.err
    check = shipped.json["check"]
    assert check["passed"] is True
    assert check["golden"]["cases"] > 1
    assert check["golden"]["recorded_in"] == "training"
    again = intermodal("ship", project, "--json", home=HOME)
    assert again.json["nothing_to_do"] is True
    assert again.json["image"]["digest"] == shipped.json["image"]["digest"]


def test_a_published_onnx_file_ships_as_its_page_says(tmp_path: Path) -> None:
    project = shutil.copytree(CHECKOUT / "examples" / "basic-pitch", tmp_path / "basic-pitch", ignore=IGNORED)
    python = training_python("onnxruntime==1.31.1")
    subprocess.run([sys.executable, project / "fetch.py"], check=True, capture_output=True)
    subprocess.run([python, project / "tone.py"], check=True, capture_output=True)
    recorded = intermodal("record", project, "--inputs", project / "tone.npy", "--python", python, home=HOME)
    assert recorded.code == 0, recorded.out + recorded.err
    shipped = intermodal("ship", project, "--json", home=HOME)
    assert shipped.code == 0, shipped.out + shipped.err
    assert shipped.json["check"]["passed"] is True
    assert shipped.json["check"]["golden"]["recorded_in"] == "training"


def test_a_bare_model_in_an_empty_folder_ships(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copyfile(CHECKOUT / "examples" / "digits" / "model.joblib", folder / "model.joblib")
    shipped = intermodal("ship", "model.joblib", "--json", home=HOME, cwd=folder)
    assert shipped.code == 0, shipped.out + shipped.err
    assert shipped.json["image"]["name"] == "model:latest"
    check = shipped.json["check"]
    assert check["passed"] is True
    assert check["golden"]["cases"] == 0
    assert any("golden" in warning for warning in check["warnings"]), "it was not proven, and must say so"
    assert [path.name for path in folder.iterdir()] == ["model.joblib"]
