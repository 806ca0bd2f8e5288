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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.cli import SHARED_CACHE, intermodal, world_folder
from support.envs import CHECKOUT
from support.other_hosts import FEW, dependencies, emulator, root_of

from intermodal.engine.image import read_image
from intermodal.host import read
from intermodal.oci.compare import compare
from intermodal.oci.descriptor import MANIFEST, Descriptor
from intermodal.oci.layout import Store
from intermodal.oci.listing import list_image

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("platforms")]

PREDICTOR = """
from parts import NAMES

class P:
    def load(self, folder):
        pass

    def predict(self, x):
        return {"y": x[1:]}
"""
BOTH = 'platforms = ["linux/amd64", "linux/arm64"]'
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


@dataclass(frozen=True)
class Here:
    """The project, and what this machine made of it for both platforms."""

    folder: Path
    project: Path
    home: Path
    image: dict[str, Any]


def fresh(home: Path) -> Path:
    """A cache that remembers nothing, but need not fetch again what other tests have fetched."""
    files = SHARED_CACHE / "intermodal/files"
    files.mkdir(parents=True, exist_ok=True)
    (home / "cache/intermodal/layers").mkdir(parents=True)
    (home / "cache/intermodal/files").symlink_to(files)
    return home / "cache"


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    with world_folder() as folder:
        project, home = folder / "project", folder / "here"
        project.mkdir()
        (project / "model.bin").write_bytes(b"weights" * 1000)
        (project / "predictor.py").write_text(PREDICTOR)
        (project / "parts.py").write_text("NAMES = {'a', 'b', 'c'}\n\ndef f(x=(1, 2)):\n    return x in NAMES\n")
        (project / "intermodal.toml").write_text(
            '[model]\nname = "two"\nversion = "1"\nartifact = "model.bin"\npredictor = "predictor:P"\n'
            f'[environment]\n{BOTH}\nrequirements = ["packaging"]\n'
        )
        made = intermodal("build", project, "--json", home=home, cache=fresh(home))
        assert made.code == 0, made.err
        yield Here(folder, project, home, made.json)


def test_the_foreign_platform_alone_has_the_very_layers_of_the_index(here: Here) -> None:
    """The lock of a project for it alone brings this machine's interpreter, to compile."""
    own = read()
    foreign = f"linux/{OTHER[own.architecture][0]}"
    project, home = here.folder / "alone", here.folder / "alone-home"
    shutil.copytree(here.project, project, ignore=shutil.ignore_patterns("pylock*"))
    text = (project / "intermodal.toml").read_text()
    (project / "intermodal.toml").write_text(text.replace(BOTH, f'platforms = ["{foreign}"]'))
    made = intermodal("build", project, "--json", home=home, cache=fresh(home))
    assert made.code == 0, made.err
    assert not any(layer["reused"] for layer in made.json["layers"])
    assert "compiler = [" in (project / "pylock.intermodal.toml").read_text()
    assert "compiler = [" not in (here.project / "pylock.intermodal.toml").read_text()
    store = Store(here.home / "data/intermodal/store")
    index = store.manifest_for(store.resolve("two:1"), foreign)
    expected = [str(layer.digest) for layer in read_image(store, index).layers]
    assert [layer["digest"] for layer in made.json["layers"]] == expected


def test_one_index_from_two_architectures(here: Here) -> None:
    other, machine = OTHER[read().architecture]
    there = here.folder / "there"
    shutil.copytree(here.home / "data", there / "data")
    remembered = fresh(there) / "intermodal/layers"
    for entry in (here.home / "cache/intermodal/layers").glob("*.json"):
        if json.loads(entry.read_bytes()).get("title", "").startswith("Debian "):
            shutil.copy(entry, remembered / entry.name)
    needed = [line for line in dependencies() if _name(line) in FEW]
    root = root_of(here.folder / "root", "deb:bookworm", f"linux/{other}", needed)
    program = PROGRAM.replace("PATHS", repr([str(CHECKOUT / "src"), *root.packages]))
    program = program.replace("EMULATOR", repr(str(emulator(machine)))).replace("PROJECT", repr(str(here.project)))
    words = [str(emulator(machine)), "-L", str(root.layers[0]), str(root.interpreter), "-S", "-c", program]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(there), "XDG_DATA_HOME": str(there / "data"),
        "XDG_CACHE_HOME": str(there / "cache"), "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8",
    }  # fmt: skip
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["machine"] == machine
    titles = [layer["title"] for layer in here.image["layers"] if not layer["title"].startswith("Debian ")]
    assert told["made"] == titles, "not everything was made again"
    assert told["digest"] == here.image["digest"], "\n".join(differences(here.home, there))


def differences(*homes: Path) -> list[str]:
    """In which layers, entries and fields the images of the platforms differ."""
    stores = [Store(home / "data/intermodal/store") for home in homes]
    found = []
    for platform in ("linux/amd64", "linux/arm64"):
        listed = []
        for store in stores:
            digest = store.manifest_for(store.resolve("two:1"), platform)
            size = store.path(digest).stat().st_size
            listed.append(list_image(store, Descriptor(MANIFEST, digest, size)))
        found += [f"{platform}: {difference}" for difference in compare(*listed)]
    return found


def _name(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0]
