"""Projects on real bases from a registry: Debian's own Pythons, and this machine's others on top of Debian.

Each base is put into a local registry, locked by its tag, built with byte code by its own confined interpreter, checked
in a hardened sandbox, and pushed beside it: its layers are mounted there and never sent.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.bases import debian_layer, layer, plain, put_base, put_index, tree_layer
from support.cli import intermodal, world_folder
from support.other_hosts import this_host
from support.other_registry import Registry, running

from intermodal.engine.image import read_image, unpacked_layers
from intermodal.engine.rootfs import compose
from intermodal.host import read
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate_store

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("registry bases")]

DEBIAN = {"3.11": "bookworm", "3.13": "trixie"}
OTHERS = ("3.9", "3.10", "3.12")
PREDICTOR = """
import colorsys, sys, os

class P:
    def load(self, folder):
        pass

    def predict(self, x):
        assert not os.path.exists("/usr/share/gone"), "a whiteout was not honoured"
        return {"y": [value * 2 for value in x]}
"""


@dataclass(frozen=True)
class World:
    """One machine and the registry that it knows."""

    folder: Path
    home: Path
    registry: Registry

    @property
    def store(self) -> Store:
        return Store(self.home / "data/intermodal/store").open_or_create()

    def project(self, name: str, base: str, more: str = "") -> Path:
        folder = self.folder / name
        folder.mkdir()
        (folder / "predictor.py").write_text(PREDICTOR)
        tensors = [{"name": n, "datatype": "FP64", "shape": [2], "data": d} for n, d in (("x", [1, 2]), ("y", [2, 4]))]
        case = {"name": "twice", "request": {"inputs": tensors[:1]}, "response": {"outputs": tensors[1:]}}
        golden = {"format": 1, "recorded_in": "training", "environment": {}, "cases": [case]}
        (folder / "golden.json").write_text(json.dumps(golden))
        (folder / "intermodal.toml").write_text(
            f'[model]\nname = "{name}"\nversion = "1"\npredictor = "predictor:P"\n'
            f'[environment]\nbase = "{base}"\n{more}'
        )
        return folder

    def run(self, *arguments: str | Path, code: int = 0) -> Any:
        done = intermodal(*arguments, "--json", home=self.home)
        assert done.code == code, f"{done.err}\n{done.out[-3000:]}"
        return done.json

    def debian(self, suite: str) -> bytes:
        """The base layer of Debian packages, as an image of ours has it."""
        name = f"plain-{suite}"
        if not (self.folder / name).exists():
            self.run("build", self.project(name, f"deb:{suite}", 'bytecode = "none"\n'))
        built = self.run("build", self.folder / name)
        return self.store.path(Digest.parse(built["layers"][0]["digest"])).read_bytes()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with world_folder() as folder, running() as registry:
        (folder / "home").mkdir()
        yield World(folder, folder / "home", registry)


def installed(version: str) -> Path:
    """The folder of an interpreter of this machine that has its own copy of everything."""
    program = shutil.which(f"python{version}")
    if program is not None and Path(program).parent.name == "shims":  # pyenv's, which start nothing by themselves
        found = sorted(Path(program).parents[1].glob(f"versions/{version}.*/bin/python{version}"))
        program = str(found[0]) if found else None
    if program is None:
        # no package of Debian or PyPI brings one, so this is not a tool that CI could have installed
        pytest.skip(f"this machine has no python{version}")
    script = "import sys; print(sys.base_prefix)"
    done = subprocess.run([program, "-I", "-c", script], capture_output=True, text=True, check=False)
    prefix = Path(done.stdout.strip() or "/usr")
    if done.returncode or prefix == Path("/usr") or not (prefix / f"lib/python{version}").is_dir():
        pytest.skip(f"this machine has no python{version} in a folder of its own")
    return prefix


def shipped(world: World, version: str, reference: str) -> dict[str, Any]:
    """Built, checked and pushed; what the build said."""
    name = f"on-{version.replace('.', '')}"
    project = world.project(name, reference, 'requirements = ["msgspec"]\n')
    (project / "predictor.py").write_text(f"import msgspec.json\n{PREDICTOR}")  # a compiled package, in the venv
    built: dict[str, Any] = world.run("build", project)
    checked = world.run("check", f"{name}:1")
    assert checked["passed"] and checked["golden"]["cases"] == 1
    assert any(one["title"].startswith(f"byte code of Python {version}.") for one in built["layers"])
    assert built["size_bytes"] > 3 * built["compressed_bytes"] / 2
    again = world.run("build", project)
    assert again["digest"] == built["digest"] and again["unchanged"]
    assert validate_store(world.store).faults == ()
    base = [one["digest"] for one in built["layers"] if ", layer " in one["title"]]
    config = world.store.config(world.store.resolve(f"{name}:1"))["config"]
    assert config["Labels"]["org.opencontainers.image.base.name"] == reference
    assert config["Labels"]["org.opencontainers.image.base.digest"].startswith("sha256:")
    seen = len(world.registry.seen)
    pushed = world.run("push", f"{name}:1", f"{world.registry.address}/apps/{name}:1")
    assert set(base) <= set(pushed["mounted"]), pushed
    assert not any("/blobs/sha256:" in p and m == "GET" for m, p, _ in world.registry.seen[seen:])
    return built


@pytest.mark.parametrize("version", DEBIAN)
def test_debians_own_python(version: str, world: World) -> None:
    """With a layer in zstd, and one not compressed that deletes a file of it; for 3.13 all as Docker writes it."""
    name = f"debian/python:{version}"
    gone = [layer({"usr/share/gone": b"still here"}), layer({"usr/share/.wh.gone": b""})]
    docker = version == "3.13"
    if not docker:
        gone = [zstandard.ZstdCompressor().compress(plain(gone[0])), plain(gone[1])]
    layers = [world.debian(DEBIAN[version]), *gone]
    put_base(world.registry, name, layers, architecture=read().architecture, docker=docker)
    built = shipped(world, version, f"{world.registry.address}/{name}")
    assert [one["title"].rpartition(", ")[2] for one in built["layers"][:3]] == ["layer 1", "layer 2", "layer 3"]


def test_several_platforms(world: World) -> None:
    """Both from one index; and the foreign one alone, byte code by the index's image for this machine."""
    own = read().platform
    platforms = ("linux/amd64", "linux/arm64")
    foreign = next(platform for platform in platforms if platform != own)
    plain = world.project("plain-both", "deb:bookworm", f'bytecode = "none"\nplatforms = {list(platforms)}\n')
    top = world.store.resolve(world.run("build", plain)["name"])
    members = {}
    for platform in platforms:
        manifest = read_image(world.store, world.store.manifest_for(top, platform))
        data = world.store.path(manifest.layers[0].digest).read_bytes()
        architecture = platform.partition("/")[2]
        members[architecture] = put_base(world.registry, "debian/several", [data], architecture=architecture)
    put_index(world.registry, "debian/several:1", members)
    base = f"{world.registry.address}/debian/several:1"
    both = world.run("build", world.project("both", base, f"platforms = {list(platforms)}\n"))
    assert both["platforms"] == list(platforms)
    assert world.run("check", "both:1")["passed"]
    alone = world.project("alone", base, f'platforms = ["{foreign}"]\n')
    (alone / "intermodal.toml").write_text((alone / "intermodal.toml").read_text().replace('"alone"', '"both"'))
    image = world.run("build", alone, "-t", "alone:1")
    assert any(layer["title"].startswith("byte code of Python 3.11.") for layer in image["layers"])
    index = world.store.resolve("both:1")
    found = [read_image(world.store, world.store.manifest_for(index, foreign))]
    found.append(read_image(world.store, world.store.resolve("alone:1").digest))
    titles = [layer["title"] for layer in image["layers"]]
    differing = [t for t, one, two in zip(titles, found[0].layers, found[1].layers, strict=True) if one != two]
    assert differing == ["application"], "only the name in its settings may differ"


def test_the_newest_python(world: World) -> None:
    """Of Debian's testing suite; its constants hold slices, which no older byte code does."""
    host = this_host(world.home)
    name = "debian/python:3.14"
    put_base(world.registry, name, [debian_layer("forky", "3.14", host, world.store)], architecture=host.architecture)
    built = shipped(world, "3.14", f"{world.registry.address}/{name}")
    image = read_image(world.store, world.store.resolve(built["name"]).digest)
    root = compose(unpacked_layers(world.store, image, host), "loader", host.cache_dir, ()).merged
    assert root is not None
    library = root / "usr/lib/python3.14"
    bare = {path for path in library.rglob("*.py") if not list(path.parent.glob(f"__pycache__/{path.stem}.cpython-*"))}
    assert bare == set(), "the standard library has modules without byte code"


@pytest.mark.parametrize("version", OTHERS)
def test_another_python(version: str, world: World) -> None:
    prefix = installed(version)
    libraries = tree_layer(prefix, leave=("site-packages", "test", "idlelib", "tkinter", "share", "include"))
    name = f"others/python:{version}"
    layers, path = [world.debian("bookworm"), libraries], f"{prefix}/bin:/usr/bin"
    put_base(world.registry, name, layers, path=path, architecture=read().architecture)
    built = shipped(world, version, f"{world.registry.address}/{name}")
    assert f'"{prefix}/bin/python{version}"' in json.dumps(
        world.store.config(world.store.resolve(built["name"]))["config"]["Entrypoint"]
    )
