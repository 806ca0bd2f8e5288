"""The committed examples are what their scripts make: retrained here, they answer as their golden cases say."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.envs import CHECKOUT, training_python
from support.machine import machine

from intermodal.golden.cases import GoldenFile, read_golden
from intermodal.golden.record import record
from intermodal.project.load import load
from intermodal.rooms.inspect import inspect

EXAMPLES = CHECKOUT / "examples"
COMMITTED = ("digits", "passengers", "conflict-old", "conflict-new", "predictor")
TRAINED = ("digits", "passengers", "conflict-old", "conflict-new")


def python_of(name: str) -> Path:
    """The environment that the example's own project file asks for."""
    settings = tomllib.loads((EXAMPLES / name / "intermodal.toml").read_text())
    return training_python(*settings["environment"]["requirements"])


def run(python: Path, script: Path) -> None:
    subprocess.run([python, "-I", "-B", script], check=True, capture_output=True, cwd=script.parent)


def answers(folder: Path, python: Path, tmp_path: Path) -> GoldenFile:
    """What the model in `folder` answers to the committed requests."""
    host = machine(tmp_path)
    project = load(folder, host)
    golden = EXAMPLES / folder.name / "golden.json"
    return record(project, inspect(project, host=host), golden, host=host, python=python)


def assert_alike(mine: GoldenFile, theirs: GoldenFile, rel: float) -> None:
    assert [c.name for c in mine.cases] == [c.name for c in theirs.cases]
    for one, other in zip(mine.cases, theirs.cases, strict=True):
        outputs: list[dict[str, Any]] = one.response["outputs"]
        for have, want in zip(outputs, other.response["outputs"], strict=True):
            assert {k: have[k] for k in ("name", "datatype", "shape")} == {
                k: want[k] for k in ("name", "datatype", "shape")
            }
            exact = want["datatype"] not in ("FP64", "FP32")
            assert have["data"] == (want["data"] if exact else pytest.approx(want["data"], rel=rel, abs=1e-9))


@pytest.mark.parametrize("name", COMMITTED)
def test_small_enough_to_commit(name: str) -> None:
    tracked = [p for p in (EXAMPLES / name).iterdir() if p.is_file() and not p.name.startswith(("pylock", "."))]
    assert sum(p.stat().st_size for p in tracked) < 100_000
    golden = read_golden(EXAMPLES / name / "golden.json")
    assert golden.recorded_in == "training"
    assert len(golden.cases) > 4
    assert (EXAMPLES / name / "README.md").is_file()


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_model_answers_as_recorded(name: str, tmp_path: Path) -> None:
    folder = EXAMPLES / name
    assert_alike(answers(folder, python_of(name), tmp_path), read_golden(folder / "golden.json"), 1e-9)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_the_script_makes_that_model_again(name: str, tmp_path: Path) -> None:
    """Trained afresh it answers alike; an optimizer may end elsewhere in the last digits on another processor."""
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("model.joblib", "rows.*", "pylock*"))
    committed = (EXAMPLES / name / "golden.json").read_bytes()
    python = python_of(name)
    run(python, folder / "train.py")
    assert_alike(answers(folder, python, tmp_path), read_golden(EXAMPLES / name / "golden.json"), 1e-3)
    for rows in (EXAMPLES / name).glob("rows.*"):
        assert (folder / rows.name).read_bytes() == rows.read_bytes()
    if name == "digits":  # the one that writes its golden cases itself
        assert_alike(read_golden(folder / "golden.json"), read_golden(EXAMPLES / name / "golden.json"), 1e-3)
    else:
        assert (folder / "golden.json").read_bytes() == committed


@pytest.mark.network
@pytest.mark.slow
def test_basic_pitch_is_fetched_and_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "basic-pitch"
    shutil.copytree(
        EXAMPLES / "basic-pitch", folder, ignore=shutil.ignore_patterns("*.onnx", "*.npy", "*.json", "pylock*")
    )
    python = python_of("basic-pitch")
    run(python, folder / "fetch.py")
    run(python, folder / "tone.py")
    host = machine(tmp_path)
    project = load(folder, host)
    golden = record(project, inspect(project, host=host), folder / "tone.npy", host=host, python=python)
    (case,) = golden.cases
    assert {tuple(o["shape"]) for o in case.response["outputs"]} == {(1, 172, 88), (1, 172, 264)}
    notes = max(case.response["outputs"], key=lambda o: max(o["data"]) if o["shape"][2] == 88 else 0.0)
    assert max(notes["data"]) > 0.5, "three tones sound, so a note must be found"
    assert len(json.dumps(case.request)) < 1_000_000
