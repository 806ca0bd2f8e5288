"""The readers under fuzzing, each as one function of bytes and a folder.

Takes any bytes; says whether they were read or refused with one of our own errors, and raises for everything else.
What comes out is looked at by another reader: no path of a layer may be absolute or climb, whatever went in.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import deflate  # noqa: F401 - what a reader may need is imported before it is watched
import isal.igzip
import isal.isal_zlib

from intermodal.errors import IntermodalError
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Entry
from intermodal.oci.layer import LayerWriter
from intermodal.oci.layer_stream import Limits
from intermodal.oci.unpack import unpack_layer
from intermodal.rooms.build.base_tree import Tree
from intermodal.rooms.build.debs import open_deb
from intermodal.rooms.build.debs_stream import Limits as DebLimits
from intermodal.rooms.build.wheels.archive import Wheel
from intermodal.rooms.build.wheels.install import install
from intermodal.rooms.build.wheels.prune import rules
from intermodal.rooms.build.wheels.scheme import Scheme
from intermodal.rooms.inspect.detect import detect
from intermodal.rooms.inspect.formats.interface import Opened

from .front import read_body, read_connection
from .guard import GUARD, Reader

WHEEL = "demo-1.0-py3-none-any.whl"
SCHEME = Scheme("opt/venv", "3.11")
LAYER_LIMITS = Limits(entries=2000, tar_bytes=64 << 20, ratio_from_bytes=16 << 20)
DEB_LIMITS = DebLimits(expanded_bytes=64 << 20, entries=2000)


class Layers:
    """One stored layer, as `unpack_layer` looks for it."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def path(self, _digest: Digest) -> Path:
        return self._place


def read_zip(data: bytes, folder: Path) -> bool:
    """A wheel as a build takes it, and a skops file as `inspect` does."""
    path = folder / WHEEL
    path.write_bytes(data)
    try:
        out = io.BytesIO()
        with Wheel(path) as wheel:
            done = install(wheel, SCHEME, rules())
            _check_names([*done.spliced, *done.packed])
            writer = LayerWriter(out)
            writer.splice(done.spliced)
            writer.pack(done.packed)
            writer.finish()
        _check_layer(out.getvalue())
    except IntermodalError:
        return _inspect(path)
    return True


def read_tar(data: bytes, folder: Path) -> bool:
    """A layer as the sandbox unpacks it; bytes that are no gzip are stored as one."""
    stored = data if data.startswith(b"\x1f\x8b") else isal.igzip.compress(data, 0)
    place = folder / "blob"
    place.write_bytes(stored)
    plain = data if stored is not data else _gunzipped(stored)
    diff_id = Digest(hashlib.sha256(plain).hexdigest())
    try:
        unpack_layer(Layers(place), Digest.of(stored), diff_id, folder / "rootfs", limits=LAYER_LIMITS)
    except IntermodalError:
        left = [path.name for path in (folder / "rootfs").iterdir() if path.suffix != ".lock"]
        assert not left, f"refused, but left {left}"
        return False
    return True


def read_ar(data: bytes, folder: Path) -> bool:
    """A Debian package as a base takes it."""
    path = folder / "demo_1.0_amd64.deb"
    path.write_bytes(data)
    try:
        with Tree(folder) as tree:
            with open_deb(path, Digest.of(data), limits=DEB_LIMITS) as deb:
                tree.add_package(deb, "demo")
            for node in tree.nodes():
                assert not _climbs(node.path), node.path
                assert not node.target.startswith("/"), node.target
    except IntermodalError:
        return False
    return True


def read_pickle(data: bytes, folder: Path) -> bool:
    """A model as `inspect` looks at it."""
    path = folder / "model.joblib"
    path.write_bytes(data)
    return _inspect(path)


READERS: dict[str, Reader] = {
    "zip": read_zip, "tar": read_tar, "ar": read_ar, "pickle": read_pickle,
    "connection": read_connection, "body": read_body,
}  # fmt: skip


def run(reader: str, data: bytes, folder: Path) -> bool:
    """Give `data` to a reader under watch, in a new folder below `folder`.

    Raises:
        Violation: it did what none may do.
        Exception: anything but our own errors came out of it.
    """
    home = folder / "home"
    home.mkdir()
    try:
        with GUARD.watching(home):
            return READERS[reader](data, home)
    finally:
        shutil.rmtree(home)


def _inspect(path: Path) -> bool:
    opened = Opened(path, path.parent)
    try:
        found = detect(opened).read(opened)
    except IntermodalError as error:
        assert error.message
        return False
    for finding in found.findings:
        assert finding.message.isprintable(), repr(finding.message)
        assert len(finding.message) < 4000, len(finding.message)
    return found.safe


def _climbs(path: str) -> bool:
    return not path or path.startswith("/") or ".." in path.split("/") or "\0" in path


def _check_names(entries: Iterable[Entry]) -> None:
    for entry in entries:
        assert not _climbs(entry.path), entry.path
        assert entry.path.startswith("opt/venv/"), entry.path


def _check_layer(stored: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(isal.igzip.decompress(stored))) as archive:
        for member in archive:
            assert not _climbs(member.name), member.name
            assert member.isreg() or member.isdir(), member.name


def _gunzipped(stored: bytes) -> bytes:
    """As far as it goes within the limits; a diff id that is wrong only means that the layer is refused."""
    inflater = isal.isal_zlib.decompressobj(31)
    try:
        return bytes(inflater.decompress(stored, LAYER_LIMITS.tar_bytes))
    except isal.isal_zlib.error:
        return b""
