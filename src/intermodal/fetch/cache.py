"""The cache of fetched files, by content: `cache_dir/files/<sha256>/<file name>`.

Takes digests and names; hands on paths. A file appears under its final name only when its hash agrees, by rename.

Rules: one process at a time works on a digest (flock); a broken transfer leaves `<file name>.part`, which the next
one continues; a cached file of the wrong size is fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from intermodal.errors import StoreError, UnsafePathError
from intermodal.host import Host
from intermodal.oci.digest import Digest


def check_filename(name: str) -> str:
    """`name` itself when it is one plain path segment.

    Raises:
        UnsafePathError: it is empty, hidden, longer than 255 bytes, or holds a separator or control character.
    """
    if not name or name.startswith(".") or len(name.encode()) > 255 or "/" in name or not name.isprintable():
        raise UnsafePathError(f"not a file name that can be stored: {name[:80]!r}")
    return name


def path_of(host: Host, digest: Digest, filename: str) -> Path:
    """Where the file of `digest` lies or will lie."""
    return host.cache_dir / "files" / digest.hex / check_filename(filename)


def present(path: Path, size_bytes: int) -> bool:
    """Whether the cache holds the file; `size_bytes` 0 means unknown."""
    try:
        found = path.stat().st_size
    except OSError:
        return False
    return found == size_bytes if size_bytes else True


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the only right to write `path`, among threads and processes of this machine."""
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn the failures of writing below `folder` into messages; other errors pass through.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise_store_error(folder, error)


def raise_store_error(folder: Path, error: OSError) -> NoReturn:
    """Raise the StoreError that says why `folder` cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StoreError(
            "the disk is full",
            found=f"{error.strerror or error}: {folder}",
            next=["intermodal prune", "or set XDG_CACHE_HOME to a folder on another disk"],
        ) from error
    raise StoreError(
        f"cannot write below {folder}",
        found=error.strerror or str(error),
        next="check its permissions, or set XDG_CACHE_HOME to another folder",
    ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` under `path` so that readers see the old file or the whole new one.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
