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
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from intermodal.host.files import failure
from intermodal.host.held import Sweep, lock_file

ALWAYS = "-"  # a part that no image holds and no sweep removes
_IN_USE = "folders.lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """A name for the time since this machine started; "unknown" where the kernel gives none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def folder_once(final: Path, fill: Callable[[Path], None], made_of: Collection[str] = ()) -> Path:
    """`final`, filled by `fill` now or earlier.

    Args:
        final: the finished folder; its parent is made when missing. Beside it lie `NAME.lock` and, while somebody
            works, `NAME.partial`.
        fill: gets an empty folder that nobody else can enter; what it raises is passed on, and the folder is gone.
        made_of: names of what is in it, diff ids for example; `sweep_folders` removes the folder with any of them.

    Raises:
        OSError: the disk is full or the folder may not be written.
    """
    with lock_file(f"{final}.lock") as marker:
        done = "\n".join((boot_id(), *made_of)).encode()
        if _read(marker) == done and final.is_dir():
            return final
        _write(marker, b"")
        partial = _partial(final)
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
        _write(marker, done)
    return final


@contextmanager
def folders_in_use(cache: Path) -> Iterator[None]:
    """Keep `sweep_folders` away from the cache while its folders are mounted, started from or read.

    Raises:
        StoreError: the cache cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_file(cache / _IN_USE, fcntl.LOCK_SH))
        except OSError as error:
            raise failure("cannot use the cache", cache, error, variable="XDG_CACHE_HOME") from error
        yield


def sweep_folders(sweep: Sweep, cache: Path, parents: Collection[Path], keep: Collection[str]) -> bool:
    """Whether folders that are not made of `keep` alone, and half-made ones of dead processes, could be removed.

    Args:
        sweep: what removes.
        cache: the cache folder; while anybody uses its folders, nothing is removed.
        parents: where finished folders lie.
        keep: names of parts.
    """
    if not any(parent.is_dir() for parent in parents):
        return True
    try:
        with lock_file(cache / _IN_USE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for parent in parents:
                for lock in sorted(parent.glob("*.lock")):
                    with suppress(BlockingIOError), lock_file(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as marker:
                        _sweep_one(sweep, lock, marker, keep)
    except BlockingIOError:
        return False
    return True


def _sweep_one(sweep: Sweep, lock: Path, marker: int, keep: Collection[str]) -> None:
    final = lock.with_suffix("")
    made_of = _read(marker).decode("utf-8", "replace").split("\n")[1:]
    if _partial(final).exists():
        sweep.remove("temporary", _partial(final))
    if final.is_dir() and not (made_of and all(part in keep or part == ALWAYS for part in made_of)):
        sweep.remove("tree", final)
    if not sweep.dry_run and not final.exists():
        lock.unlink()


def _partial(final: Path) -> Path:
    return final.with_name(f"{final.name}.partial")


def _read(marker: int) -> bytes:
    return os.pread(marker, os.fstat(marker).st_size, 0)


def _write(marker: int, content: bytes) -> None:
    """Replace the marker's content at once."""
    os.ftruncate(marker, 0)
    os.pwrite(marker, content, 0)


def remove_tree(path: Path) -> None:
    """Delete whatever lies at `path`, links themselves and not what they point at; missing is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
