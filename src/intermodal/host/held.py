"""Temporary files and folders held by a lock while their maker lives, so that a stranger can tell the abandoned ones.

Takes folders; hands on new files and folders inside them, lock files, and later the removal of what nobody holds.

Rules, in order:
1. Whoever makes something temporary holds a `flock` on it. The kernel drops that lock with the process, however it
   ends, and it is seen across containers that share a folder; a process id in a name would be neither.
2. What nobody holds is abandoned and may go. Between making and locking a thing it can be swept away by somebody
   else: its maker looks again, and makes another.
3. A lock file may be removed by whoever holds it: who waited for it looks again, too, and takes the new one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

SUFFIX = ".tmp"


def new_file(folder: Path | str, prefix: str = "", *, mode: int = 0o600) -> tuple[int, str]:
    """A new file that nobody else has: open for writing, held until it is closed; and its path.

    `tempfile` would cost 8 ms of imports on the way to an unchanged image.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        name = f"{folder}/{prefix}{os.urandom(8).hex()}{SUFFIX}"
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            if _hold(handle, name):
                return handle, name
        except BaseException:  # a file system without locks, for example
            os.unlink(name)  # noqa: PTH108
            raise


@contextmanager
def scratch(folder: Path, prefix: str = "") -> Iterator[Path]:
    """A new folder inside `folder`, held for the length of a `with` block and gone afterwards.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        name = folder / f"{prefix}{os.urandom(8).hex()}{SUFFIX}"
        name.mkdir(mode=0o700)
        try:
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _hold(handle, name):
                break
        except FileNotFoundError:
            continue  # swept between the two calls
        except BaseException:
            name.rmdir()
            raise
    import shutil

    try:
        yield name
    finally:
        shutil.rmtree(name, ignore_errors=True)
        os.close(handle)


@contextmanager
def lock_file(path: Path | str, how: int = fcntl.LOCK_EX) -> Iterator[int]:
    """The open lock file at `path`, made with its folder when missing, locked for the length of a `with` block.

    Raises:
        BlockingIOError: `how` has LOCK_NB, and somebody else holds it.
        OSError: it cannot be made.
    """
    handle = _locked(path, how)
    try:
        yield handle
    finally:
        os.close(handle)


def _locked(path: Path | str, how: int) -> int:
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - on the warm path
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # the folder was swept away in between
        try:
            fcntl.flock(handle, how)
            if is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _hold(handle: int, name: Path | str) -> bool:
    """Whether `handle` is locked now and still what lies at `name`; else it is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(handle, name):
            return True
    except BlockingIOError:  # a sweeper is about to remove it
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return False


def is_at(handle: int, name: Path | str) -> bool:
    """Whether the open file is still the one at `name`."""
    try:
        there = os.stat(name, follow_symlinks=False)  # noqa: PTH116
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


class Removed(Struct, frozen=True):
    """One thing that a sweep removed, or would remove."""

    kind: str  # "blob" | "temporary" | "tree" | "container"
    path: Path
    bytes: int  # that became free by it; hard links count with the last of them


class Sweep:
    """Removes things, or with `dry_run` only notes them; `items` lists them in order."""

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.items: list[Removed] = []
        self._links: dict[tuple[int, int], tuple[int, int]] = {}

    def remove(self, kind: str, path: Path) -> None:
        """Remove a file, link or folder.

        Raises:
            OSError: it is there and cannot be removed.
        """
        self.items.append(Removed(kind, path, self._freed(path)))
        if self.dry_run:
            return
        if path.is_dir() and not path.is_symlink():
            import shutil

            shutil.rmtree(path, ignore_errors=kind == "container")  # a container may have closed folders in its own
        else:
            path.unlink(missing_ok=True)

    def abandoned(self, kind: str, folder: Path, prefix: str = "") -> None:
        """Remove what lies in `folder` and no living process holds; with `prefix` only what was made with it."""
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return
        for name in names:
            if prefix and not (name.startswith(prefix) and name.endswith(SUFFIX)):
                continue
            path = folder / name
            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError:
                if path.is_symlink():
                    self.remove(kind, path)
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(handle, path):
                    self.remove(kind, path)
            except BlockingIOError:
                continue  # its maker lives
            finally:
                os.close(handle)

    def _freed(self, path: Path) -> int:
        if path.is_symlink() or not path.is_dir():
            return self._last_link(path)
        return sum(
            self._last_link(os.path.join(place, name))  # noqa: PTH118
            for place, _, names in os.walk(path)
            for name in names
        )

    def _last_link(self, path: Path | str) -> int:
        try:
            status = os.lstat(path)
        except OSError:
            return 0
        key = (status.st_dev, status.st_ino)
        before, links = self._links.get(key, (0, status.st_nlink))
        self._links[key] = (before + 1, links)  # the number of links as it was when the sweep came here first
        return status.st_size if before + 1 >= links else 0
