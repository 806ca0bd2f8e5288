"""What an entry of a layer may be: decided by what the layer itself has made so far, never by a file system.

Takes one `TarEntry` after the other, hands on clean paths. `unpack` writes what is admitted here; `verify` only looks.

Rules, in order:
1. A path is relative, never climbs, and is neither too deep nor too long; a link's target stays below the root.
2. Every parent of an entry is a folder that this layer made (missing ones are implied), so no link is followed.
3. A path stands there once. Devices, pipes and hard links to anything but a file of this layer are refused.
4. A whiteout names one entry of its own folder, or empties a folder that is not the root.
"""

from __future__ import annotations

from typing import Literal

from intermodal.errors import DuplicatePathError, InputError, UnsafePathError
from intermodal.oci.layer_stream import Limits
from intermodal.oci.tar_reader import TarEntry

Made = Literal["file", "directory", "symlink", "whiteout"]

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


class LayerRules:
    """The tree of one layer, as names and kinds."""

    def __init__(self, limits: Limits) -> None:
        self.made: dict[str, Made] = {"": "directory"}
        self.was_implied = False  # the folder just admitted was there already, for what lies in it
        self._implied: set[str] = set()
        self._limits = limits
        self._entries = 0

    def admit(self, entry: TarEntry) -> str:
        """The clean path of an entry that breaks no rule; "" for the root, which is there already.

        Raises:
            UnsafePathError, DuplicatePathError, InputError: it breaks one; the message names the entry.
        """
        self._entries += 1
        if self._entries > self._limits.entries:
            raise InputError("the layer holds too many entries", found=f"more than {self._limits.entries}")
        path = self.clean(entry.path)
        if not path:
            if entry.kind != "directory":
                raise UnsafePathError("the layer wants to replace its own root", found=f"{entry.kind} {entry.path!r}")
            return ""
        parent, _, name = path.rpartition("/")
        if name.startswith(WHITEOUT):
            self._check_whiteout(entry, path, parent, name)
        self._need_folder(parent, path)
        self.was_implied = entry.kind == "directory" and path in self._implied
        if path in self.made and not self.was_implied:
            raise DuplicatePathError("the layer holds two entries of one path", found=path)
        self.made[path] = self._kind(entry, path)
        self._implied.discard(path)
        return path

    def make_parent(self, folder: str) -> None:
        """Called for every folder that no entry names; whoever writes makes it now."""

    def clean(self, name: str) -> str:
        """The path of an entry relative to the root, without `.` and doubled slashes."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise UnsafePathError("the layer holds a path that leaves its root", found=name[:200])
        if len(parts) > self._limits.depth or any(len(part.encode()) > 255 for part in parts):
            raise UnsafePathError("the layer holds a path that is too deep or too long", found=name[:200])
        return "/".join(parts)

    def _kind(self, entry: TarEntry, path: str) -> Made:
        if entry.kind == "symlink":
            _check_link(path, entry.target)
            return "symlink"
        if entry.kind == "hardlink":
            if self.made.get(self.clean(entry.target)) != "file":
                raise UnsafePathError(
                    "the layer holds a hard link to something that is no file of this layer",
                    found=f"{path} -> {entry.target}",
                )
            return "file"
        if entry.kind in ("device", "fifo"):
            raise UnsafePathError(f"the layer holds a {entry.kind}, which is never unpacked", found=path)
        if entry.kind == "directory":
            return "directory"
        return "whiteout" if path.rpartition("/")[2].startswith(WHITEOUT) else "file"

    def _check_whiteout(self, entry: TarEntry, path: str, parent: str, name: str) -> None:
        deleted = name.removeprefix(WHITEOUT)
        opaque = name == OPAQUE and parent
        if entry.kind != "file" or not (
            opaque or (deleted not in ("", ".", "..") and not deleted.startswith(WHITEOUT))
        ):
            raise UnsafePathError("the layer deletes something that no layer may delete", found=f"whiteout {path}")

    def _need_folder(self, folder: str, path: str) -> None:
        """Make sure that `folder` is a real folder of this layer, making missing parents."""
        made = self.made.get(folder)
        if made == "directory":
            return
        if made is not None:
            raise UnsafePathError(
                "the layer writes through something that is no folder", found=f"{path}: {folder} is a {made}"
            )
        self._need_folder(folder.rpartition("/")[0], path)
        self.make_parent(folder)
        self.made[folder] = "directory"
        self._implied.add(folder)


def _check_link(path: str, target: str) -> None:
    """Refuse a relative link that climbs above the root; an absolute one starts at the container's root."""
    depth = 0 if target.startswith("/") else path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            raise UnsafePathError("the layer holds a link that leaves its root", found=f"{path} -> {target}"[:200])
    if not target:
        raise UnsafePathError("the layer holds a link without a target", found=path)
