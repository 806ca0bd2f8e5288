"""Bases for images: put into a registry by tests, of small files or of real Pythons."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import zstandard
from msgspec.structs import replace

from intermodal.events import SILENT
from intermodal.fetch import fetch_all
from intermodal.host import Host
from intermodal.oci.descriptor import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    INDEX,
    LAYER_GZIP,
    LAYER_TAR,
    LAYER_ZSTD,
    MANIFEST,
)
from intermodal.oci.layout import Store
from intermodal.rooms.build.base import base_layer
from intermodal.rooms.lock.debian import suites
from intermodal.rooms.lock.debian.base import resolve_base
from intermodal.rooms.lock.debian.release import parse_date
from intermodal.rooms.lock.debian.sources import mirrors
from intermodal.rooms.lock.requests import deb_request
from support.debs import lock_of
from support.other_registry import Registry, digest_of

ZSTD = b"\x28\xb5\x2f\xfd"
SMALL = {
    "usr/bin/python3": "-> ../local/bin/python3.12",
    "usr/local/bin/python3": "-> python3.12",
    "usr/local/bin/python3.12": b"\x7fELF\0/lib64/ld-linux-x86-64.so.2\0\0003.12.4\0",
    "usr/local/lib/python3.12/os.py": b"import sys\n",
    "usr/lib/libc.so.6": b"\x7fELF GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n",
}


def layer(files: Mapping[str, bytes | str], folders: Iterable[str] = ()) -> bytes:
    """A gzip layer; a text is the target of a link ("-> TARGET"), all files are executable."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def tree_layer(folder: Path, *, leave: Iterable[str] = ()) -> bytes:
    """A gzip layer of everything below a folder of this machine, where it is; `leave` names path parts to leave out."""
    left = frozenset(leave)

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if left & set(entry.name.split("/")) or entry.name.endswith((".a", ".pyc")):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, str(folder).lstrip("/"), filter=kept)
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def debian_layer(suite: str, python: str, host: Host, store: Store) -> bytes:
    """The base layer of a Debian suite that is not offered as a base, such as testing, as of when it was signed."""
    suites.SUITES[suite] = suites.Suite(suite, python, (2, 41))
    try:
        with urllib.request.urlopen(f"{mirrors(host, suite)[0]}/dists/{suite}/InRelease", timeout=60) as answer:
            lines = answer.read().decode("utf-8", "replace").splitlines()
        signed = next(line.partition(": ")[2] for line in lines if line.startswith("Date: "))
        then = replace(host, now_s=float(parse_date(signed)))  # a mirror may stand still
        base = resolve_base(f"deb:{suite}", [host.platform], [], host=then)
        lock = replace(lock_of(base.packages), base=base, python=python, platforms=(host.platform,))
        files = fetch_all([deb_request(row, lock, then) for row in base.packages], host=then)
    finally:
        del suites.SUITES[suite]
    with store.session():
        made = base_layer(lock, host.platform, store=store, host=host, events=SILENT, debs=files)
    return store.path(made.digest).read_bytes()


def put_base(
    registry: Registry,
    name: str,
    layers: Iterable[bytes],
    *,
    path: str = "/usr/local/bin:/usr/bin:/bin",
    architecture: str = "amd64",
    variables: Iterable[str] = (),
    docker: bool = False,
) -> str:
    """The digest of a base "repository:tag" that the registry has from now on; `docker` takes Docker's media types."""
    repository, _, tag = name.partition(":")
    blobs = list(layers)
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": [f"PATH={path}", *variables]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(plain(blob)) for blob in blobs]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST if docker else MANIFEST,
        "config": {
            "mediaType": DOCKER_CONFIG if docker else CONFIG,
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": DOCKER_LAYER if docker else media_type(blob), "digest": digest_of(blob), "size": len(blob)}
            for blob in blobs
        ],
    }
    return registry.put_image(repository, tag, manifest, config, *blobs, media_type=str(manifest["mediaType"]))


def media_type(blob: bytes) -> str:
    """Of a layer, by its first bytes."""
    return LAYER_GZIP if blob[:2] == b"\x1f\x8b" else LAYER_ZSTD if blob[:4] == ZSTD else LAYER_TAR


def plain(blob: bytes) -> bytes:
    """The tar of a layer."""
    if media_type(blob) == LAYER_GZIP:
        return gzip.decompress(blob)
    return zstandard.ZstdDecompressor().decompress(blob) if media_type(blob) == LAYER_ZSTD else blob


def put_index(registry: Registry, name: str, members: Mapping[str, str]) -> str:
    """The digest of an index of manifests that are there already: architecture -> digest."""
    repository, _, tag = name.partition(":")
    held = registry.state.manifests[repository]
    listed = [
        {
            "mediaType": held[digest][0],
            "digest": digest,
            "size": len(held[digest][1]),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, digest in members.items()
    ]
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    return registry.put_image(repository, tag, document, media_type=INDEX)
