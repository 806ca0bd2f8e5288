"""One digest everywhere: other Pythons, CPUs, architectures, file systems, listing orders, numbers of processes.

What `test_same_digest.py` varies (folder, user, umask, time zone, language, hash seed, order of compiling) is not
repeated. Two things are built: the frozen project (`tests/golden_digest`), whose digest is written down, also where
every instruction is emulated; and a small project on a real base with byte code, from empty caches each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from golden_digest.project import FROZEN
from golden_digest.recorded import RECORD, parse
from support.as_if import REFUSED
from support.cli import intermodal, world_folder
from support.engines import omit
from support.envs import CHECKOUT
from support.other_hosts import FEW, Root, dependencies, emulator, root_of, this_host

from intermodal.oci.compare import compare
from intermodal.oci.layout import Store
from intermodal.oci.listing import list_image
from intermodal.rooms.build.bytecode import Compiler

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("one digest")]

BYTECODE = FROZEN.with_name("bytecode.json")
DIGEST = parse(RECORD.read_text(encoding="utf-8")).digest
# x86-64 with nothing newer than SSE3, then with SSE4.2, then with everything the emulator knows (AVX2, BMI, …)
CPUS = ("qemu64", "Nehalem-v1", "max")
# Builds the frozen project, then compresses with a library that is known to choose its code by the CPU: the control
# that the CPUs differ in what matters.
PROGRAM = f"""
import sys
sys.path[:0] = PATHS
from pathlib import Path
import hashlib, platform, tempfile
from isal import isal_zlib
from tests.golden_digest.project import listing, weights
with tempfile.TemporaryDirectory() as folder:
    print(listing(Path(folder)).digest)
data = Path({str(CHECKOUT / "docs/glossary.md")!r}).read_bytes() * 20 + bytes(range(256)) * 400
print(hashlib.sha256(isal_zlib.compress(data, 1)).hexdigest())
print(platform.machine(), isal_zlib.__file__)
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Path]:
    with world_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def newer(world: Path) -> Root:
    """An image of ours that holds CPython 3.13 and all that intermodal needs."""
    return root_of(world / "newer", "deb:trixie", f"linux/{this_architecture()}", dependencies())


def this_architecture() -> str:
    from intermodal.host import read

    return read().architecture


def run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, unless this machine refuses namespaces or mounts."""
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, **{"env": environment, "cwd": "/", **more}
    )
    if done.returncode == REFUSED or (done.returncode and done.stderr.startswith(("unshare: ", "bwrap: "))):
        omit(f"this machine refuses it: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


# --- the frozen project ----------------------------------------------------------------------------------------------


def emulated(world: Path, architecture: str) -> tuple[list[str], list[str]]:
    """The words that follow an emulator's own to start Python with a program as text, and where its packages are."""
    if architecture == this_architecture():
        return [sys.executable, "-c"], sys.path
    wanted = [line for line in dependencies() if named(line)]
    root = root_of(world / architecture, "deb:bookworm", f"linux/{architecture}", wanted)
    return ["-L", str(root.layers[0]), str(root.interpreter), "-S", "-c"], root.packages


def program(packages: list[str]) -> str:
    return PROGRAM.replace("PATHS", repr([str(CHECKOUT), str(CHECKOUT / "src"), *packages]))


def test_other_x86_cpus(world: Path) -> None:
    words, packages = emulated(world, "amd64")
    told = {}
    for cpu in CPUS:
        done = run([str(emulator("x86_64")), "-cpu", cpu, *words, program(packages)])
        told[cpu] = done.stdout.split()
    assert {digest for digest, *_ in told.values()} == {DIGEST}, told
    assert len({control for _, control, *_ in told.values()}) > 1, "the CPUs are alike: nothing was proven"
    assert {machine for *_, machine, _ in told.values()} == {"x86_64"}


def test_arm64(world: Path) -> None:
    words, packages = emulated(world, "arm64")
    done = run([str(emulator("aarch64")), *words, program(packages)])
    digest, _, machine, module = done.stdout.split()
    assert (machine, digest) == ("aarch64", DIGEST)
    assert module.endswith("aarch64-linux-gnu.so")


def named(requirement: str) -> bool:
    return requirement.partition(">")[0].partition("=")[0] in FEW


def test_another_python(newer: Root) -> None:
    command = ["/opt/venv/bin/python", "-m", "tests.golden_digest"]
    paths = ["--setenv", "PYTHONPATH", str(CHECKOUT / "src"), "--chdir", str(CHECKOUT)]
    done = run(newer.confined(*paths, *command, see=(CHECKOUT,)))
    assert done.stdout.startswith(f"{DIGEST} as recorded, on Python 3.13.")


def test_byte_code_as_recorded(newer: Root, reference: Reference) -> None:
    """The same source gives the bytes that it gave to earlier versions of the builder, per version of Python."""
    bases = {"3.13": newer.layers[0], "3.11": next((reference.files.parent / "rootfs").iterdir())}
    sources = [(f"app/{path.name}", path.read_bytes()) for path in sorted((FROZEN / "bytecode").glob("*.py"))]
    recorded = json.loads(BYTECODE.read_text())
    found = {}
    for python, base in bases.items():
        with Compiler(lambda: base, python, this_host(base.parent)) as compiler:  # noqa: B023 - called in this turn
            compiled = dict(compiler.compile(sources))
        version = next((base / "var/lib/dpkg/status.d").glob(f"python{python}-minimal")).read_text()
        full = re.search(r"^Version: (?:\d+:)?([\d.]+)", version, re.MULTILINE)
        assert full is not None
        found[full[1]] = {path: hashlib.sha256(code or b"").hexdigest() for path, code in compiled.items()}
    assert found == {version: recorded.get(version) for version in found}, (
        f"the byte code of {sorted(found)} is not what {BYTECODE.name} says. A new version of Python in Debian? Add "
        "its row. Changed on purpose? Raise POLICY_VERSION (rooms/build/bytecode.py) and replace the rows"
    )


# --- a project with byte code on a real base -------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What one build sees."""

    mount: str = ""
    seed: int | None = None
    cores: int | None = None
    umask: int = 0o022
    newer: bool = False


MACHINES = {
    "tmpfs, files in another order, five processes": Machine("tmpfs", seed=1, cores=5),
    "overlay, yet another order, one process": Machine("overlay", seed=2, cores=1, umask=0o077),
    "Python 3.13 in an image of ours": Machine(newer=True, seed=3, cores=3),
}
PREDICTOR = """
from parts import {names}

class Sum:
    def load(self, folder):
        return None

    def predict(self, X):
        return X
"""


@dataclass(frozen=True)
class Reference:
    """The project with its committed lock, its image as this machine builds it, and the packages it fetched."""

    project: Path
    files: Path
    image: Mapping[str, Any]
    layout: Path


@pytest.fixture(scope="module")
def reference(world: Path) -> Reference:
    project = world / "project"
    (project / "parts").mkdir(parents=True)
    (project / "weights").mkdir()
    names = ["delta", "alpha", "omega", "beta", "kappa", "zeta"]
    for number, name in enumerate(names):
        source = f"VALUES = {{{', '.join(repr(f'{name}{n}') for n in range(20))}}}\n\ndef {name}(x=(1, {number})):\n"
        (project / f"parts/{name}.py").write_text(f"{source}    return [i for i in x if i not in VALUES]\n")
        (project / f"weights/{name}.bin").write_bytes(name.encode() * 3000)
    (project / "parts/__init__.py").write_text("".join(f"from parts.{name} import {name}\n" for name in names))
    (project / "predictor.py").write_text(PREDICTOR.format(names=", ".join(names)))
    (project / "intermodal.toml").write_text(
        '[model]\nname = "sum"\nversion = "1"\nartifact = "weights"\npredictor = "predictor:Sum"\n'
        '[environment]\nbase = "deb:bookworm"\nrequirements = ["packaging", "click"]\n'
    )
    home = world / "here"
    home.mkdir()
    made = intermodal("lock", project, "--no-urls", home=home)
    assert made.code == 0, made.err
    result = intermodal("build", project, "--json", "-o", f"oci:{home}/out", home=home, cache=home / "cache")
    assert result.code == 0, result.err
    return Reference(project, home / "cache/intermodal/files", result.json, home / "out")


def built(machine: Machine, reference: Reference, folder: Path, newer: Root | None) -> dict[str, Any]:
    """What the build said, and what was really different about its machine."""
    folder.mkdir()
    place = folder / "disk"  # where a file system of its own is mounted
    place.mkdir()
    inside = place / "merged" if machine.mount == "overlay" else place
    spec = {
        "seed": machine.seed,
        "cores": machine.cores,
        "mount": machine.mount,
        "folder": str(place),
        "copy": [
            (str(reference.project), str(inside / "project")),
            (str(reference.files), str(inside / "cache/intermodal/files")),
        ],
        "record": str(folder / "record.json"),
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(inside / "home"), "XDG_DATA_HOME": str(inside / "data"),
        "XDG_CACHE_HOME": str(inside / "cache"), "PYTHONPATH": str(CHECKOUT / "src"), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    words = [str(CHECKOUT / "tests/support/as_if.py"), str(folder / "spec.json"), "build", str(inside / "project")]
    words += ["--json", "-o", f"oci:{folder}/out"]
    if newer is not None:
        settings = [word for key, value in environment.items() if key != "PATH" for word in ("--setenv", key, value)]
        command = newer.confined(
            *settings,
            "/opt/venv/bin/python",
            *words,
            bind=(folder,),
            see=(CHECKOUT, reference.project, reference.files),
        )
    else:
        environment["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT / "src"), *sys.path])
        own = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
        command = [*own, sys.executable, *words]
    done = run(command, env=environment, umask=machine.umask)
    return {"image": json.loads(done.stdout), "told": json.loads((folder / "record.json").read_text())}


def differences(reference: Reference, layout: Path) -> list[str]:
    """In which layers, entries and fields two images differ."""
    one, other = Store(reference.layout), Store(layout)
    pair = [list_image(store, store.resolve("sum:1")) for store in (one, other)]
    return [str(difference) for difference in compare(*pair)]


@pytest.mark.parametrize("name", MACHINES)
def test_one_digest(name: str, reference: Reference, world: Path, newer: Root, request: pytest.FixtureRequest) -> None:
    machine = MACHINES[name]
    folder = world / request.node.callspec.id.split(" ")[0].strip(",")
    result = built(machine, reference, folder, newer if machine.newer else None)
    image, told = result["image"], result["told"]
    assert not any(layer["reused"] for layer in image["layers"]), "it did not start from empty caches"
    assert any(layer["title"].startswith("byte code of Python 3.11") for layer in image["layers"])
    assert image["digest"] == reference.image["digest"], "\n".join(differences(reference, folder / "out"))
    assert image["lock_digest"] == reference.image["lock_digest"]
    if machine.mount:
        assert (told["project"], told["cache"]) == (machine.mount, machine.mount)
    listed = {Path(place).name: names for place, names in told["listings"].items()}
    for part in ("parts", "weights"):
        assert listed[part] != sorted(listed[part]), "the order was not taken: nothing was proven"
    assert told["python"].startswith("3.13." if machine.newer else f"3.{sys.version_info[1]}.")
