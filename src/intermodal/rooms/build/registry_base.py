"""A base that is an image of a registry, as the lowest layers of an image: taken as they are, byte code on top.

Takes a `Lock` and the local store; hands on `LayerInfo`s. The base's own layers are never changed or packed anew, so a
registry that has them gets none of them twice.

Rules, in order:
1. A layer that the store lost is fetched again by digest, and verified as when it was locked.
2. The standard library's byte code is a layer of its own, made of the sources that have none in the base; what the base
   has in site-packages stays without, because nothing of it is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.blob import BlobWriter
from intermodal.oci.descriptor import LAYER_COMPRESSION, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Entry
from intermodal.oci.layer import write_layer
from intermodal.oci.layout import Store
from intermodal.oci.unpack import unpack_layer
from intermodal.rooms.build.bytecode import POLICY_VERSION, pyc_path
from intermodal.rooms.build.layer_cache import cached_layer
from intermodal.rooms.build.part import Compile
from intermodal.rooms.lock.rows import BaseImageRow, Lock

_MEDIA_TYPES = {"gzip": LAYER_GZIP, "zstd": LAYER_ZSTD, "none": LAYER_TAR}
_SKIPPED = re.compile(
    r"(?:site-packages|dist-packages|test|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data)/.*"
    r"|(?:distutils|unittest|ctypes|sqlite3|lib2to3)/tests?/.*"
)


def base_layers(lock: Lock, platform: str, *, store: Store, host: Host, events: Events) -> list[LayerInfo]:
    """The base's own layers, lowest first, all of them in the store; the caller has a session.

    Raises:
        RegistryError, DownloadError, UnknownImageError: a layer is neither here nor to be had.
    """
    from intermodal.rooms.lock.registry_base.images import fetch_layers

    row = lock.base.image(platform)
    had = [store.has(layer.digest) for layer in row.layers]
    fetch_layers(lock.base, platform, store=store, host=host, events=events)
    return [
        LayerInfo(
            layer.digest, layer.diff_id, layer.size_bytes, layer.tar_bytes, "base",
            f"{lock.base.reference}, layer {number}", reused=here,
        )
        for number, (layer, here) in enumerate(zip(row.layers, had, strict=True), 1)
    ]  # fmt: skip


def media_types(lock: Lock, platform: str) -> dict[Digest, str]:
    """The media types of the base's layers in a manifest of ours; empty for a base of Debian packages."""
    if not lock.base.images:
        return {}
    layers = lock.base.image(platform).layers
    return {layer.digest: _MEDIA_TYPES[LAYER_COMPRESSION[layer.media_type]] for layer in layers}


def unpacked(lock: Lock, platform: str, *, store: Store, host: Host, events: Events) -> tuple[Path, ...]:
    """The base's layers as folders, lowest first."""
    base_layers(lock, platform, store=store, host=host, events=events)
    root = host.cache_dir / "rootfs"
    with events.task("unpack the base"):
        return tuple(
            unpack_layer(store, layer.digest, layer.diff_id, root, LAYER_COMPRESSION[layer.media_type])
            for layer in lock.base.image(platform).layers
        )


def bytecode_layer(
    lock: Lock, platform: str, *, store: Store, host: Host, compile_sources: Compile
) -> LayerInfo | None:
    """The byte code of the base's standard library, kind "base"; None when the lock wants none, or the base has it."""
    if lock.policy.bytecode == "none":
        return None
    row = lock.base.image(platform)

    def write(sink: BlobWriter) -> LayerInfo:
        entries = [
            Entry.file(pyc_path(path, lock.base.python), code)
            for path, code in compile_sources(_sources(row, store, lock.base.python))
            if code is not None
        ]
        info = write_layer(entries, sink)
        return replace(info, kind="base", title=f"byte code of Python {lock.base.python_version}")

    identity = {
        "kind": "stdlib-bytecode",
        "policy": POLICY_VERSION,
        "base": [str(layer.diff_id) for layer in row.layers],
        "library": row.library,
        "python": lock.base.python_version,
        "layout": lock.policy.layout,
        "codec": lock.policy.codec,
        "compression": lock.policy.compression,
    }
    return cached_layer(identity, write, store=store, host=host)


def _sources(row: BaseImageRow, store: Store, python: str) -> Iterator[tuple[str, bytes]]:
    """The standard library's sources without byte code in the base; links under their own names, as for imports."""
    from intermodal.rooms.lock.registry_base.tree import Stored, Tree

    tree = Tree([Stored(store.path(layer.digest), layer) for layer in row.layers])
    folder = f"{row.library}/"
    wanted = {
        path: node
        for path in sorted(tree.nodes)
        if path.startswith(folder)
        and path.endswith(".py")
        and not _SKIPPED.match(path.removeprefix(folder))
        and pyc_path(path, python) not in tree.nodes
        and (node := tree.file(path)) is not None
    }
    yield from zip(wanted, tree.read(list(wanted.values())), strict=True)
