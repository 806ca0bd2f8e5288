"""The same index from both architectures: what this machine builds for two platforms is built again by the other one.

The builder runs in a user-mode emulator there, and so does the interpreter that compiles byte code, the other base's
own. Only the two layers of Debian packages are taken over, to keep it short: that they are the same bytes everywhere is
`test_one_digest.py`'s subject.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from support.cli import SHARED_CACHE, intermodal, world_folder
from support.envs import CHECKOUT
from support.other_hosts import FEW, dependencies, emulator, root_of

from intermodal.host import read

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("platforms")]

PREDICTOR = """
from parts import NAMES

class P:
    def load(self, folder):
        pass

    def predict(self, x):
        return {"y": x[1:]}
"""
OTHER = {"amd64": ("arm64", "aarch64"), "arm64": ("amd64", "x86_64")}
PROGRAM = """
import sys
sys.path[:0] = PATHS
import json, platform
from pathlib import Path
from intermodal import pipeline
from intermodal.host import read
from intermodal.rooms.build.bytecode import Compiler

def loader(self):
    root = str(self._rootfs[0])
    return [EMULATOR, "-L", root, f"{root}/usr/bin/python{self._python}"]

Compiler._is_confined = lambda self: False  # the sandbox is a program of this architecture, too
Compiler._loader = loader
image = pipeline.build(Path(PROJECT), host=read())
made = [layer.title for layer in image.layers if not layer.reused]
print(json.dumps({"machine": platform.machine(), "digest": str(image.digest), "made": made}))
"""


def test_one_index_from_two_architectures() -> None:
    other, machine = OTHER[read().architecture]
    with world_folder() as folder:
        project, home = folder / "project", folder / "here"
        project.mkdir()
        (project / "model.bin").write_bytes(b"weights" * 1000)
        (project / "predictor.py").write_text(PREDICTOR)
        (project / "parts.py").write_text("NAMES = {'a', 'b', 'c'}\n\ndef f(x=(1, 2)):\n    return x in NAMES\n")
        (project / "intermodal.toml").write_text(
            '[model]\nname = "two"\nversion = "1"\nartifact = "model.bin"\npredictor = "predictor:P"\n'
            '[environment]\nplatforms = ["linux/amd64", "linux/arm64"]\nrequirements = ["packaging"]\n'
        )
        files = SHARED_CACHE / "intermodal/files"
        files.mkdir(parents=True, exist_ok=True)
        (home / "cache/intermodal").mkdir(parents=True)
        (home / "cache/intermodal/files").symlink_to(files)
        here = intermodal("build", project, "--json", home=home, cache=home / "cache")
        assert here.code == 0, here.err
        there = folder / "there"
        shutil.copytree(home / "data", there / "data")
        (there / "cache/intermodal/layers").mkdir(parents=True)
        (there / "cache/intermodal/files").symlink_to(files)
        for entry in (home / "cache/intermodal/layers").glob("*.json"):
            if json.loads(entry.read_bytes()).get("title", "").startswith("Debian "):
                shutil.copy(entry, there / "cache/intermodal/layers" / entry.name)
        root = root_of(
            folder / "root", "deb:bookworm", f"linux/{other}", [d for d in dependencies() if _name(d) in FEW]
        )
        program = PROGRAM.replace("PATHS", repr([str(CHECKOUT / "src"), *root.packages]))
        program = program.replace("EMULATOR", repr(str(emulator(machine)))).replace("PROJECT", repr(str(project)))
        words = [str(emulator(machine)), "-L", str(root.layers[0]), str(root.interpreter), "-S", "-c", program]
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(there), "XDG_DATA_HOME": str(there / "data"),
            "XDG_CACHE_HOME": str(there / "cache"), "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8",
        }  # fmt: skip
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout)
    assert told["machine"] == machine
    titles = [layer["title"] for layer in here.json["layers"] if not layer["title"].startswith("Debian ")]
    assert told["made"] == titles, "not everything was made again"
    assert told["digest"] == here.json["digest"]


def _name(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0]
