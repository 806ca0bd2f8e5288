"""Files of this host: who they are without reading them, what is in them without reading them twice, and writing them.

A file is written whole or not at all, in one way for all rooms: temporary file, fsync, rename, fsync of the folder.
The identity of a file is (inode, size, mtime, ctime): mtime alone can be set back by anybody, ctime cannot. It
decides only whether a warm build has to look again; whatever leaves this machine is hashed in full.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from intermodal.errors import StoreError
from intermodal.host.held import Sweep, new_file

Identity = tuple[int, int, int, int]


def identity(path: Path | str) -> Identity | None:
    """Who a file or folder is: (inode, size, mtime in ns, ctime in ns); None when it is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - hundreds of them decide whether anything has to be done at all
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def identities(paths: Iterable[Path | str]) -> dict[str, list[int] | None]:
    """The identity of each path, in the form that JSON keeps; absent files are part of it."""
    return {path: list(who) if (who := identity(path)) else None for path in sorted({str(path) for path in paths})}


def unchanged(known: Mapping[str, list[int] | None]) -> bool:
    """Is every path still who it was, and is everything absent that was?"""
    return all((list(who) if (who := identity(path)) else None) == before for path, before in known.items())


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "it does not exist",
}


def failure(message: str, path: Path, error: OSError, *, variable: str = "XDG_DATA_HOME") -> StoreError:
    """An operating system error as people can act on it; `variable` moves the folder elsewhere, "" when none does."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        message,
        found=f"{path}: {_REASONS.get(error.errno or 0, error.strerror or str(error))}",
        next=("free some space (intermodal prune)" if full else "check the folder and its owner")
        + (f", or set {variable} to a folder on another disk" if variable else ""),
    )


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes, temporary: Path | None = None, *, mode: int | None = None) -> None:
    """Let `path` hold `data`, whole or not at all, and for good once this returns: also after a power cut.

    Args:
        path: the file, old or new; its folder is made when missing.
        data: all of it.
        temporary: folder on the same disk for the bytes on their way, which `prune` sweeps. None takes the file's own
            folder: then what killed processes left of this file is swept here.
        mode: permissions; None leaves them to the umask.

    Raises:
        OSError: the disk is full, or the like; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if temporary is None:
        prefix = f".{path.name}."
        Sweep(dry_run=False).abandoned("temporary", path.parent, prefix)
    else:
        prefix = ""
        temporary.mkdir(parents=True, exist_ok=True)
    handle, name = new_file(temporary or path.parent, prefix, mode=0o666 if mode is None else mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
            Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, data: bytes, temporary: Path | None = None) -> None:
    """The same as `replace_file`, for files of projects and caches.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    try:
        replace_file(path, data, temporary)
    except OSError as error:
        variable = "XDG_CACHE_HOME" if temporary else ""
        raise failure(f"cannot write {path.name}", path.parent, error, variable=variable) from error


def read_json(path: Path) -> object:
    """The JSON in a file of our own cache; None when it is missing or damaged (a cache may always be lost)."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
