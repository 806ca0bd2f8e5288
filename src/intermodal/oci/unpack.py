"""Layers as folders: what the sandbox mounts.

Takes a layer of the store, hands on a folder with its tree, made once and kept under the layer's diff id.

Rules, in order:
1. Nothing is written outside the new folder. Every parent of an entry must be a folder that this layer itself made,
   so no link is ever followed; the tracked tree decides, not the file system.
2. Both the digest of the stored bytes and the diff id of the tar must be right, else the folder never appears.
3. Refused, with the entry's name: names that are absolute or climb, links that lead out, devices, pipes, two entries
   of one path, and anything beyond `Limits`.
5. What a layer deletes of those below stays in the folder under the name that the layer gave it (`.wh.NAME`), and the
   folder then holds `WHITEOUTS` at its top: it must be merged with those below before anybody looks (`engine.rootfs`).
4. Owners are ignored and no privilege bit survives: the folder belongs to whoever unpacks and only they may write.

Does not merge layers (`engine.rootfs`) and fetches nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from intermodal.errors import InputError
from intermodal.host.files import failure
from intermodal.oci.descriptor import Compression
from intermodal.oci.digest import Digest
from intermodal.oci.folder_once import folder_once
from intermodal.oci.layer_rules import LayerRules
from intermodal.oci.layer_stream import LIMITS, LayerStream, Limits
from intermodal.oci.tar_reader import TarEntry, read_entries

WHITEOUTS = ".wh..wh.any"  # no layer may bring a file of this name


class Blobs(Protocol):
    """The part of the store that unpacking needs."""

    def path(self, digest: Digest) -> Path:
        """Where the bytes of `digest` lie."""
        ...


def unpack_layer(
    store: Blobs,
    digest: Digest,
    diff_id: Digest,
    root: Path,
    compression: Compression = "gzip",
    *,
    limits: Limits = LIMITS,
) -> Path:
    """The folder `root/<diff id>` with the tree of a layer, unpacked now or earlier.

    Safe for several processes; an interrupted attempt leaves nothing that a later one would take for finished.

    Args:
        store: where the layer lies.
        digest: of the stored (compressed) bytes.
        diff_id: of the uncompressed tar.
        root: folder for all unpacked layers; made when missing.
        compression: of the stored bytes.
        limits: when to give up.

    Raises:
        StoreError: the stored bytes are missing or damaged, or the disk is full.
        UnsafePathError, DuplicatePathError, InputError: the layer breaks rule 3.
    """
    try:
        return folder_once(
            root / diff_id.hex,
            lambda folder: _unpack(store.path(digest), digest, diff_id, folder, compression, limits),
            (diff_id.hex,),
        )
    except OSError as error:
        where = Path(error.filename or root)
        raise failure(f"cannot unpack layer {digest.short}", where, error, variable="XDG_CACHE_HOME") from error


class _Tree(LayerRules):
    """The new folder and what was put into it so far."""

    def __init__(self, root: Path, limits: Limits) -> None:
        super().__init__(limits)
        self._root = f"{root}/"
        self._modes: dict[str, int] = {}  # of folders, set last so that a closed one can be filled

    def add(self, entry: TarEntry, content: LayerStream) -> None:
        """Put one entry into the tree."""
        if path := self.admit(entry):
            self._make(entry, path, content)

    def _make(self, entry: TarEntry, path: str, content: LayerStream) -> None:
        """Create the entry at `path`, whose parent is known to be a folder of ours."""
        place = self._root + path
        if self.made[path] == "whiteout":
            for name in (place, self._root + WHITEOUTS):
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            list(content.pieces(entry.size_bytes))
            return
        if entry.kind == "file":
            self._write(place, entry, content)
        elif entry.kind == "directory":
            if not self.was_implied:
                os.mkdir(place, 0o700)  # noqa: PTH102 - a Path per entry costs a third of the time
            self._modes[path] = entry.mode & 0o755 | 0o700
        elif entry.kind == "symlink":
            os.symlink(entry.target, place)  # noqa: PTH211
        else:
            os.link(self._root + self.clean(entry.target), place, follow_symlinks=False)

    def make_parent(self, folder: str) -> None:
        """Create a folder that no entry of the layer names."""
        os.mkdir(self._root + folder, 0o755)  # noqa: PTH102
        self._modes[folder] = 0o755

    def _write(self, place: str, entry: TarEntry, content: LayerStream) -> None:
        """A regular file with exactly the bytes that the header announced."""
        left = entry.size_bytes
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for piece in content.pieces(left):
                left -= len(piece)
                while piece:
                    piece = piece[os.write(descriptor, piece) :]
            os.fchmod(descriptor, entry.mode & 0o755 | 0o400)
        finally:
            os.close(descriptor)
        if left:
            raise InputError("the layer's tar ends in the middle of a file", found=entry.path)

    def close(self) -> None:
        """Give folders their final modes, deepest first."""
        for path in sorted(self._modes, reverse=True):
            os.chmod(self._root + path, self._modes[path])  # noqa: PTH101


def _unpack(
    stored: Path, digest: Digest, diff_id: Digest, folder: Path, compression: Compression, limits: Limits
) -> None:
    """Fill `folder` with the layer at `stored` and verify it."""
    with stored.open("rb", buffering=0) as stream:
        layer = LayerStream(stream, limits, compression)
        tree = _Tree(folder, limits)
        for entry in read_entries(layer):
            tree.add(entry, layer)
        layer.finish(digest, diff_id)
        tree.close()
