"""The cache of fetched files, by content: `cache_dir/files/<sha256>/<file name>`.

Takes digests and names; hands on paths. A file appears under its final name only when its hash agrees, by rename.

Rules: one process at a time works on a digest (flock); a broken transfer leaves `<file name>.part`, which the next
one continues and `prune` removes; a cached file of the wrong size is fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from intermodal.errors import StoreError, UnsafePathError
from intermodal.host import Host
from intermodal.host.files import failure
from intermodal.host.held import Sweep, lock_file
from intermodal.oci.digest import Digest

LOCK_NAME = ".lock"
PART_SUFFIX = ".part"


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
    with contextlib.ExitStack() as stack:
        with storing(path.parent):
            stack.enter_context(lock_file(path.parent / LOCK_NAME))
        yield


def sweep_parts(sweep: Sweep, host: Host) -> None:
    """Remove what broken transfers left, where nobody is fetching.

    Raises:
        StoreError: something cannot be removed.
    """
    files = host.cache_dir / "files"
    with storing(files):
        for part in sorted(files.glob(f"*/*{PART_SUFFIX}")):
            with (
                contextlib.suppress(BlockingIOError),
                lock_file(part.parent / LOCK_NAME, fcntl.LOCK_EX | fcntl.LOCK_NB),
            ):
                sweep.remove("temporary", part)


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
    raise failure(f"cannot write below {folder}", folder, error, variable="XDG_CACHE_HOME") from error
