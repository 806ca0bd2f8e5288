"""Machines unlike this one: another Python, another CPU, another architecture; all without root.

Their root file systems are images of ours, resolved, built and unpacked by this checkout from the machine's own Debian
mirrors and package indexes; the emulators come out of a Debian package, unpacked privately.
"""

from __future__ import annotations

import fcntl
import io
import shutil
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from intermodal import pipeline
from intermodal.engine.bwrap import binary
from intermodal.fetch import Request, fetch_all
from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.oci.unpack import unpack_layer
from intermodal.rooms.build import build
from intermodal.rooms.inspect import inspect
from intermodal.rooms.lock import lock
from intermodal.rooms.lock.debian.sources import deb_addresses, open_archives
from support.cli import SHARED_CACHE
from support.envs import CACHE, CHECKOUT

SUITE = "bookworm"  # that the emulators are taken from
# What building the frozen project imports; all other dependencies only cost time where every instruction is emulated.
FEW = ("deflate", "isal", "msgspec", "packaging", "urllib3")


def dependencies() -> list[str]:
    """Everything that intermodal needs at run time, as pyproject.toml says."""
    document = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    return [str(line).partition(";")[0].strip() for line in document["project"]["dependencies"]]


def this_host(home: Path) -> Host:
    """This machine and its configuration, with a home of its own and the cache that tests share."""
    real = read()
    variables = {**real.environment, "XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(SHARED_CACHE)}
    return replace(real, environment=variables)


@dataclass(frozen=True)
class Root:
    """The unpacked layers of an image, lowest first."""

    layers: tuple[Path, ...]
    python: str  # "3.13"

    def confined(self, *command: str, bind: tuple[Path, ...] = (), see: tuple[Path, ...] = ()) -> list[str]:
        """The command with this root as `/`, an overlay; `bind` may be written, `see` only read, where they are."""
        words = [str(binary()), "--cap-add", "ALL"]  # so that compiling can be confined once more, inside
        for layer in self.layers:
            words += ["--overlay-src", str(layer)]
        words += ["--tmp-overlay", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--unshare-net"]
        for option, paths in (("--ro-bind", see), ("--bind", bind)):
            for path in paths:
                words += [option, str(path), str(path)]
        return [*words, "--clearenv", "--setenv", "PATH", "/usr/bin", "--setenv", "HOME", "/tmp", *command]

    @property
    def interpreter(self) -> Path:
        """The interpreter's own file, for an emulator."""
        return self.layers[0] / "usr/bin" / f"python{self.python}"

    @property
    def packages(self) -> list[str]:
        """The folders of installed packages, one per layer that has any."""
        found = [layer / f"opt/venv/lib/python{self.python}/site-packages" for layer in self.layers]
        return [str(folder) for folder in found if folder.is_dir()]


def root_of(folder: Path, base: str, platform: str, requirements: list[str]) -> Root:
    """An image of `requirements` on `base`, built and unpacked below `folder`."""
    project_folder = folder / "project"
    project_folder.mkdir(parents=True)
    (project_folder / "nothing.json").write_text("{}")
    (project_folder / "predictor.py").write_text(
        "class Nothing:\n    def load(self, folder):\n        pass\n\n    def predict(self, X):\n        return X\n"
    )
    (project_folder / "intermodal.toml").write_text(
        '[model]\nname = "host"\nartifact = "nothing.json"\npredictor = "predictor:Nothing"\n'
        f'[environment]\nbase = "{base}"\nbytecode = "none"\nrequirements = {requirements!r}\n'
    )
    host = this_host(folder)
    project = replace(pipeline.load(project_folder, host=host), platforms=(platform,))
    card = inspect(project, host=host)
    store = Store(folder / "store").open_or_create()
    locked = lock(card, project, host=host)
    image = build(locked, card, project, store=store, host=host)
    layers = [unpack_layer(store, info.digest, info.diff_id, folder / "rootfs") for info in image.layers]
    return Root(tuple(layers), locked.python)


def emulator(architecture: str) -> Path:
    """The user-mode emulator of an architecture ("x86_64", "aarch64"): this machine's, or out of Debian's package."""
    name = f"qemu-{architecture}-static"
    if found := shutil.which(name):
        return Path(found)
    path = CACHE / "qemu" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not path.exists():
            _unpack_emulators(path.parent)
    return path


def _unpack_emulators(folder: Path) -> None:
    host = this_host(folder)
    archives, date = open_archives(host, SUITE, (host.architecture,))
    try:
        deb = archives[host.architecture].newest("qemu-user-static")
    finally:
        for archive in archives.values():
            archive.close()
    assert deb is not None
    urls = deb_addresses(host, deb.url, deb.filename, SUITE, date)
    request = Request(deb.digest, deb.size_bytes, Path(deb.filename).name, urls)
    data = fetch_all([request], host=host)[deb.digest].read_bytes()
    position = 8
    while not data[position : position + 16].startswith(b"data.tar"):
        size = int(data[position + 48 : position + 58])
        position += 60 + size + size % 2
    with tarfile.open(fileobj=io.BytesIO(data[position + 60 :]), mode="r|xz") as archive:
        for member in archive:
            name = Path(member.name).name
            if name in ("qemu-x86_64-static", "qemu-aarch64-static") and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                temporary = folder / f".{name}"
                temporary.write_bytes(content.read())
                temporary.chmod(0o755)
                temporary.rename(folder / name)
