"""The Dockerfile road: docker, podman and buildah build what `build` builds, and the same golden cases hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import engines
from support.cli import Result, intermodal, world_folder

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.xdist_group("engines")]
engines.PACKAGES.setdefault("buildah", ["buildah", "runc"])

TENSOR = {"datatype": "FP64", "shape": [2], "data": [1.0, 2.5]}
GOLDEN = {
    "format": 1,
    "recorded_in": "training",
    "environment": {},
    "cases": [
        {
            "name": "two",
            "request": {"inputs": [{"name": "x", **TENSOR}]},
            "response": {"outputs": [{"name": "y", **TENSOR, "data": [3.0, 7.5]}]},
        }
    ],
}
PROJECT = {
    "intermodal.toml": """
[model]
name = "scaled"
version = "1.0.0"
artifact = "factor.json"
predictor = "scaled:Scaled"

[environment]
requirements = ["idna==3.10"]
""",
    "factor.json": '{"factor": 3.0}',
    "golden.json": json.dumps(GOLDEN),
    "scaled.py": """
import json

import idna


class Scaled:
    def load(self, folder):
        assert idna.encode("a.example") == b"a.example"
        self.factor = json.loads((folder / "factor.json").read_text())["factor"]

    def predict(self, x):
        return {"y": [self.factor * value for value in x]}
""",
}


@dataclass(frozen=True)
class Roads:
    """A project with a model file, code of its own and a package, and engines to build it in."""

    folder: Path
    project: Path
    variables: Mapping[str, str]
    native: str  # digest of what `build` makes of it

    def call(self, *words: str | Path) -> Result:
        return intermodal(*words, "--json", home=self.folder / "home", env=self.variables)

    def run(self, *words: str | Path) -> Any:
        done = self.call(*words)
        assert done.code == 0, done.out + done.err
        return done.json


@pytest.fixture(scope="module")
def roads() -> Iterator[Roads]:
    with ExitStack() as stack:
        folder = stack.enter_context(world_folder())
        variables = {**stack.enter_context(engines.docker()).variables}
        variables |= stack.enter_context(engines.podman()).variables
        engines.need("buildah")
        variables["BUILDAH_LAYERS"] = "false"  # an image for a stage, not for every line: less to remove afterwards
        project = folder / "scaled"
        project.mkdir()
        for name, text in PROJECT.items():
            (project / name).write_text(text)
        (folder / "home").mkdir()
        empty = Roads(folder, project, variables, "")
        yield Roads(folder, project, variables, empty.run("build", project)["digest"])


@pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
def test_both_roads_lead_to_the_same_answers(roads: Roads, builder: str) -> None:
    built = roads.run("build", roads.project, "--engine", builder)
    assert built["name"] == "scaled:1.0.0"
    assert built["digest"] != roads.native
    assert any(layer["reused"] for layer in built["layers"]), "it stands on the very layers of the other"
    engine = "sandbox" if builder == "buildah" else builder
    report = roads.run("check", "scaled:1.0.0", "--engine", engine)
    assert report["passed"], report
    assert (report["golden"]["recorded_in"], report["isolation"]) == ("training", "full")
    assert report["golden"]["cases"] > 0
    _same_but_for_packing(roads, built["digest"])
    names = [image["name"] for image in roads.run("images")["images"]]
    assert not [name for name in names if "intermodal/base" in name], "the base was only needed on the way"
    assert roads.run("build", roads.project)["digest"] == roads.native, "the name goes back to the road that is taken"


def _same_but_for_packing(roads: Roads, digest: str) -> None:
    """Packages, model, code, settings, user, entry point, variables, labels and health check are those of `build`."""
    compared = roads.call("diff", roads.native, digest)
    assert compared.code == 1
    (found,) = compared.json["images"]
    assert found["packages"] == []
    assert [change for change in found["settings"] if change["name"] != "label io.buildah.version"] == []
    own = {change["path"]: change["fields"] for change in found["files"] if not change["packaged"]}
    assert own == {"app/__pycache__/scaled.cpython-311.pyc": ["content"]}, (
        "the engine's road does not make it canonical"
    )
    server = [change["path"] for change in found["files"] if "/intermodal_server/" in change["path"]]
    assert [path for path in server if not path.endswith(".pyc")] == []
    assert found["same_golden"]


def test_the_folder_is_written_anew_and_nobody_else_s_is_touched(roads: Roads) -> None:
    folder = roads.folder / "road"
    first = roads.run("dockerfile", roads.project, "-o", folder)
    text = (folder / "Dockerfile").read_text()
    assert first["base"]["name"] in text
    assert first["base"]["digest"] in text
    assert {path.name for path in (folder / "app").iterdir()} == {"scaled.py"}
    assert {path.name for path in (folder / "wheels").iterdir()} == {"README"}
    (folder / "app" / "left.py").write_text("of an older version")
    assert roads.run("dockerfile", roads.project, "-o", folder)["files"] == first["files"]
    assert (folder / "Dockerfile").read_text() == text
    assert not (folder / "app" / "left.py").exists()
    assert first["base"]["name"] in [image["name"] for image in roads.run("images")["images"]]
    (folder / "notes.txt").write_text("mine")
    refused = roads.call("dockerfile", roads.project, "-o", folder)
    assert refused.code == 2
    assert refused.json["found"] == ["notes.txt"]
    assert (folder / "notes.txt").read_text() == "mine"


def test_other_bytes_than_the_locked_ones_are_refused(roads: Roads) -> None:
    folder = roads.folder / "tampered"
    made = roads.run("dockerfile", roads.project, "-o", folder, "--wheels")
    (wheel,) = (folder / "wheels").glob("orjson-*.whl")
    with wheel.open("ab") as stream:
        stream.write(b"\0")
    roads.run("load", made["base"]["name"], "--into", "podman")
    words = ["podman", *(["--runtime", "runc"] if shutil.which("runc") else []), "build", "--pull=never"]
    words += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--network=none"]
    words += ["--build-arg", "PIP_NO_INDEX=1", str(folder)]
    done = subprocess.run(
        words, env={**os.environ, **roads.variables}, capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout + done.stderr


def test_a_step_that_fails_is_told_in_the_engine_s_words(roads: Roads) -> None:
    missing = intermodal(
        "build", roads.project, "--engine", "podman", "--json", home=roads.folder / "home", env={"PATH": "/nonexistent"}
    )
    assert missing.code == 3
    assert json.loads(missing.out)["error"] == "podman is not installed"
