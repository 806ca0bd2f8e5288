"""The ground that faults are tried on: a small project, its wheels, a Debian archive with a real Python, and a checkout
whose only difference is whose signature it trusts.

Takes a folder; hands on a `Ground` from which any number of separate worlds (home, caches, project) are copied. The
command line that runs there is the real one, in processes of its own.
"""

from __future__ import annotations

import compileall
import io
import json
import lzma
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.debian_archive import BASE, DebianArchive, Package, ar, keyring, tar_xz, use
from support.locks import SERVER
from support.simple_index import publish, pure_wheels
from support.tiny_image import python_files
from support.wheels import make_wheel

import intermodal
import intermodal_server

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
SUITE = SUITES.get(VERSION, "bookworm")
BASE_PYTHON = "3.13" if SUITE == "trixie" else "3.11"
PREDICTOR = """
import alpha

class Adder:
    def load(self, folder):
        self.amount = float((folder / "amount.txt").read_text()[:3])

    def predict(self, x):
        return {"y": x + self.amount}
"""
PROJECT = """
[model]
name = "adder"
version = "1.0.0"
artifact = "amount.txt"
predictor = "predictor:Adder"
golden = "golden.json"

[environment]
base = "deb:%s"
bytecode = "%s"
requirements = ["alpha==1.0", "beta>=1"]
"""


class PythonPackage(Package):
    """A package with an interpreter that really runs, so that byte code is really compiled."""

    def deb(self) -> bytes:
        """The .deb file, executables marked."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name in sorted({str(p) for path in self.files for p in Path(path).parents if str(p) != "."}):
                entry = tarfile.TarInfo(f"./{name}")
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            for name, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(f"./{name}")
                entry.size, entry.mode = len(data), 0o755 if data[:4] == b"\x7fELF" else 0o644
                archive.addfile(entry, io.BytesIO(data))
        control = tar_xz({"control": self.control().encode()})
        data = lzma.compress(buffer.getvalue(), preset=0)
        return ar([("debian-binary", b"2.0\n"), ("control.tar.xz", control), ("data.tar.xz", data)])


@dataclass(frozen=True)
class World:
    """One user: home, caches, project."""

    root: Path
    source: Path
    url: str

    @property
    def project(self) -> Path:
        return self.root / "project"

    @property
    def store(self) -> Path:
        return self.root / "data" / "intermodal" / "store"

    @property
    def cache(self) -> Path:
        return self.root / "cache" / "intermodal"

    @property
    def env(self) -> dict[str, str]:
        """What the command line sees; nothing outside loopback can be reached."""
        dead = "http://127.0.0.1:9"
        return {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(self.source), "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.root), "TMPDIR": str(self.root / "tmp"), "PIP_CONFIG_FILE": "/dev/null",
            "XDG_CONFIG_HOME": str(self.root / "config"), "XDG_CONFIG_DIRS": str(self.root / "config"),
            "XDG_CACHE_HOME": str(self.root / "cache"), "XDG_DATA_HOME": str(self.root / "data"),
            "XDG_RUNTIME_DIR": str(self.root / "run"), "INTERMODAL_ETC": str(self.root / "etc"),
            "PIP_INDEX_URL": f"{self.url}/index/simple", "UV_CACHE_DIR": str(self.root / "cache" / "uv"),
            "http_proxy": dead, "https_proxy": dead, "no_proxy": "127.0.0.1",
        }  # fmt: skip

    def change(self, what: str) -> None:
        """Do to the project what a person does between two builds."""
        if what == "code":
            (self.project / "predictor.py").write_text(PREDICTOR + "\n# another line\n")
        elif what == "model":
            (self.project / "amount.txt").write_text("2.5" + "x" * 70_000)
        elif what == "lock":
            (self.project / "pylock.intermodal.toml").unlink()
        elif what == "store":
            shutil.rmtree(self.store)
        else:
            assert what == "nothing", what


class Ground:
    """What all worlds share, below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.served = root / "served"
        self.source = _checkout(root / "source")
        _archive(self.served / "debian")
        wheels = root / "wheels"
        numbers = "".join(f"N{i} = {i}\n" for i in range(3000))
        made = pure_wheels(wheels, *SERVER, "numpy==2.4.6")
        made.append(make_wheel(wheels, "alpha", "1.0", {"alpha/__init__.py": "A = 1\n", "alpha/numbers.py": numbers}))
        made.append(make_wheel(wheels, "beta", "2.0", {"beta.py": "B = 2\n", "beta.bin": os.urandom(40_000)}))
        publish(self.served / "index", made)

    def world(self, name: str, url: str) -> World:
        """A new user with a new project."""
        world = World(self.root / name, self.source, url)
        for part in ("project", "tmp", "config", "cache", "data", "run", "etc"):
            (world.root / part).mkdir(parents=True)
        (world.root / "run").chmod(0o700)
        (world.project / "intermodal.toml").write_text(PROJECT % (SUITE, "all" if VERSION in SUITES else "none"))
        (world.project / "predictor.py").write_text(PREDICTOR)
        (world.project / "amount.txt").write_text("1.5" + "x" * 50_000)
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}
        case = {"name": "one", "request": {"inputs": [tensor]}, "response": {"outputs": [tensor | {"name": "y"}]}}
        golden = {"format": 1, "recorded_in": "training", "environment": {"python": BASE_PYTHON}, "cases": [case]}
        (world.project / "golden.json").write_text(json.dumps(golden))
        self.connect(world, url)
        return world

    def connect(self, world: World, url: str) -> World:
        """The same user with the mirror at another address."""
        use(world.root / "etc" / "apt", f"{url}/debian", SUITE)
        return World(world.root, world.source, url)

    def copy(self, world: World, name: str, url: str, into: Path | None = None) -> World:
        """A world as `world` is now, under another name, or inside the folder `into`."""
        target = into or self.root / name
        shutil.copytree(world.root, target, symlinks=True, dirs_exist_ok=True)
        return self.connect(World(target, world.source, url), url)


def _checkout(folder: Path) -> Path:
    """This checkout's packages, with the key of our archive where Debian's lies."""
    for package in (intermodal, intermodal_server):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "intermodal/rooms/lock/debian/keyring.pgp").write_bytes(keyring())
    compileall.compile_dir(folder, quiet=2)
    return folder


def _archive(folder: Path) -> None:
    archive = DebianArchive(folder, date_s=_now() - 3600)
    files: Mapping[str, bytes] = {
        path.strip("/"): data for path, data in python_files("struct, marshal", whole=False).items()
    }
    files = {path: data for path, data in files.items() if not path.startswith("etc/")}
    files = {path.replace(f"bin/python{VERSION}", f"bin/python{BASE_PYTHON}"): data for path, data in files.items()}
    packages = []
    for package in BASE:
        fields = vars(package).items()
        named = {key: value.replace("3.11", BASE_PYTHON) for key, value in fields if isinstance(value, str)}
        if package.name == "python3.11-minimal":
            packages.append(PythonPackage(**named, files=files))
        else:
            packages.append(Package(**named))
    archive.suite(SUITE, packages)
    archive.suite(f"{SUITE}-updates")
    archive.suite(f"{SUITE}-security", valid_days=365)


def _now() -> float:
    import time

    return time.time()
