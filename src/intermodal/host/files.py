"""Files of this host: who they are without reading them, and what is in them without reading them twice.

The identity of a file is (inode, size, mtime, ctime): mtime alone can be set back by anybody, ctime cannot. It
decides only whether a warm build has to look again; whatever leaves this machine is hashed in full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from intermodal.errors import StoreError

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


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader sees the old bytes or the new ones, also after a crash.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path.name}",
            found=f"{error.strerror} in {path.parent}",
            next="free some room, or choose other folders with XDG_DATA_HOME and XDG_CACHE_HOME",
        ) from error


def read_json(path: Path) -> object:
    """The JSON in a file of our own cache; None when it is missing or damaged (a cache may always be lost)."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
