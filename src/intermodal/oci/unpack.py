"""Layers as folders: what the sandbox mounts.

Takes a gzip layer of the store, hands on a folder with its tree, made once and kept under the layer's diff id.

Rules, in order:
1. Nothing is written outside the new folder. Every parent of an entry must be a folder that this layer itself made,
   so no link is ever followed; the tracked tree decides, not the file system.
2. Both the digest of the stored bytes and the diff id of the tar must be right, else the folder never appears.
3. Refused, with the entry's name: names that are absolute or climb, links that lead out, devices, pipes, two entries
   of one path, whiteouts (a folder alone cannot say "deleted"), and anything beyond `Limits`.
4. Owners are ignored and no privilege bit survives: the folder belongs to whoever unpacks and only they may write.

Does not merge layers (`engine.rootfs`) and fetches nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Protocol

from intermodal.errors import DuplicatePathError, InputError, UnsafePathError
from intermodal.host.files import failure
from intermodal.oci.digest import Digest
from intermodal.oci.folder_once import folder_once
from intermodal.oci.layer_stream import LIMITS, LayerStream, Limits
from intermodal.oci.tar_reader import TarEntry, read_entries

Made = Literal["file", "directory", "symlink"]


class Blobs(Protocol):
    """The part of the store that unpacking needs."""

    def path(self, digest: Digest) -> Path:
        """Where the bytes of `digest` lie."""
        ...


def unpack_layer(store: Blobs, digest: Digest, diff_id: Digest, root: Path, *, limits: Limits = LIMITS) -> Path:
    """The folder `root/<diff id>` with the tree of a gzip layer, unpacked now or earlier.

    Safe for several processes; an interrupted attempt leaves nothing that a later one would take for finished.

    Args:
        store: where the layer lies.
        digest: of the stored (compressed) bytes.
        diff_id: of the uncompressed tar.
        root: folder for all unpacked layers; made when missing.
        limits: when to give up.

    Raises:
        StoreError: the stored bytes are missing or damaged, or the disk is full.
        UnsafePathError, DuplicatePathError, InputError: the layer breaks rule 3.
    """
    try:
        return folder_once(
            root / diff_id.hex,
            lambda folder: _unpack(store.path(digest), digest, diff_id, folder, limits),
            (diff_id.hex,),
        )
    except OSError as error:
        where = Path(error.filename or root)
        raise failure(f"cannot unpack layer {digest.short}", where, error, variable="XDG_CACHE_HOME") from error


class _Tree:
    """The new folder and what was put into it so far."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = f"{root}/"
        self._made: dict[str, Made] = {"": "directory"}
        self._implied: set[str] = set()  # folders made only because something lies in them
        self._modes: dict[str, int] = {}  # of folders, set last so that a closed one can be filled
        self._limits = limits
        self._entries = 0

    def add(self, entry: TarEntry, content: LayerStream) -> None:
        """Put one entry into the tree."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise InputError("the layer holds too many entries", found=f"more than {self._limits.entries}")
        path = self._clean(entry.path)
        if not path:
            if entry.kind != "directory":
                raise UnsafePathError("the layer wants to replace its own root", found=f"{entry.kind} {entry.path!r}")
            return
        parent, _, name = path.rpartition("/")
        if name.startswith(".wh."):
            raise InputError(
                "the layer deletes files of the layers below it, which the sandbox cannot show yet",
                found=f"whiteout {path}",
                next="run this image with another engine",
            )
        self._need_folder(parent, path)
        if path in self._made and not (entry.kind == "directory" and path in self._implied):
            raise DuplicatePathError("the layer holds two entries of one path", found=path)
        self._make(entry, path, content)

    def _make(self, entry: TarEntry, path: str, content: LayerStream) -> None:
        """Create the entry at `path`, whose parent is known to be a folder of ours."""
        place = self._root + path
        if entry.kind == "file":
            self._write(place, entry, content)
            self._made[path] = "file"
        elif entry.kind == "directory":
            if path not in self._implied:
                os.mkdir(place, 0o700)  # noqa: PTH102 - a Path per entry costs a third of the time
            self._implied.discard(path)
            self._made[path] = "directory"
            self._modes[path] = entry.mode & 0o755 | 0o700
        elif entry.kind == "symlink":
            self._check_link(path, entry.target)
            os.symlink(entry.target, place)  # noqa: PTH211
            self._made[path] = "symlink"
        elif entry.kind == "hardlink":
            target = self._clean(entry.target)
            if self._made.get(target) != "file":
                raise UnsafePathError(
                    "the layer holds a hard link to something that is no file of this layer",
                    found=f"{path} -> {entry.target}",
                )
            os.link(self._root + target, place, follow_symlinks=False)
            self._made[path] = "file"
        else:
            raise UnsafePathError(f"the layer holds a {entry.kind}, which is never unpacked", found=path)

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

    def _need_folder(self, folder: str, path: str) -> None:
        """Make sure that `folder` is a real folder of this layer, making missing parents."""
        made = self._made.get(folder)
        if made == "directory":
            return
        if made is not None:
            raise UnsafePathError(
                "the layer writes through something that is no folder", found=f"{path}: {folder} is a {made}"
            )
        self._need_folder(folder.rpartition("/")[0], path)
        os.mkdir(self._root + folder, 0o755)  # noqa: PTH102
        self._made[folder] = "directory"
        self._implied.add(folder)
        self._modes[folder] = 0o755

    def _clean(self, name: str) -> str:
        """The path of an entry relative to the root, without `.` and doubled slashes."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise UnsafePathError("the layer holds a path that leaves its root", found=name[:200])
        if len(parts) > self._limits.depth or any(len(part.encode()) > 255 for part in parts):
            raise UnsafePathError("the layer holds a path that is too deep or too long", found=name[:200])
        return "/".join(parts)

    def _check_link(self, path: str, target: str) -> None:
        """Refuse a relative link that climbs above the root; an absolute one starts at the container's root."""
        depth = 0 if target.startswith("/") else path.count("/")
        for part in target.split("/"):
            depth += -1 if part == ".." else part not in ("", ".")
            if depth < 0:
                raise UnsafePathError("the layer holds a link that leaves its root", found=f"{path} -> {target}"[:200])
        if not target:
            raise UnsafePathError("the layer holds a link without a target", found=path)

    def close(self) -> None:
        """Give folders their final modes, deepest first."""
        for path in sorted(self._modes, reverse=True):
            os.chmod(self._root + path, self._modes[path])  # noqa: PTH101


def _unpack(stored: Path, digest: Digest, diff_id: Digest, folder: Path, limits: Limits) -> None:
    """Fill `folder` with the layer at `stored` and verify it."""
    with stored.open("rb", buffering=0) as stream:
        layer = LayerStream(stream, limits)
        tree = _Tree(folder, limits)
        for entry in read_entries(layer):
            tree.add(entry, layer)
        layer.finish(digest, diff_id)
        tree.close()
