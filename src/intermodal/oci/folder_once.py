"""Folders that are made once, by whoever comes first, and are either complete or absent.

Takes a path and a function that fills a folder; hands back the finished folder. Safe for several processes: one
fills, the others wait. An interrupted attempt leaves nothing that a later one would take for finished.

A folder counts as finished only within the boot that made it: its files are not flushed to disk one by one (a rootfs
has thousands), so after a power cut some of them might be empty.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """A name for the time since this machine started; "unknown" where the kernel gives none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def folder_once(final: Path, fill: Callable[[Path], None]) -> Path:
    """`final`, filled by `fill` now or earlier.

    Args:
        final: the finished folder; its parent is made when missing. Beside it lie `NAME.lock` and, while somebody
            works, `NAME.partial`.
        fill: gets an empty folder that nobody else can enter; what it raises is passed on, and the folder is gone.

    Raises:
        OSError: the disk is full or the folder may not be written.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{final}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(lock, "r+b") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        if marker.read() == boot_id().encode() and final.is_dir():
            return final
        _write(marker, b"")
        partial = final.with_name(f"{final.name}.partial")
        for leftover in (partial, final):
            remove_tree(leftover)
        partial.mkdir(mode=0o700)
        try:
            fill(partial)
            partial.chmod(0o755)
            partial.rename(final)
        except BaseException:
            remove_tree(partial)
            raise
        _write(marker, boot_id().encode())
    return final


def _write(marker: BinaryIO, content: bytes) -> None:
    """Replace the marker's content at once, not when it is closed."""
    marker.seek(0)
    marker.truncate()
    marker.write(content)
    marker.flush()


def remove_tree(path: Path) -> None:
    """Delete whatever lies at `path`, links themselves and not what they point at; missing is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
