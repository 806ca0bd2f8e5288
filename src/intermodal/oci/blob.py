"""Writing files that must survive: temporary file, fsync, rename, fsync of the folder.

`layout.Store` is made of these; a kill or a full disk at any moment leaves the old state or the new one, and at most a
file in the temporary folder that `prune` sweeps away.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from intermodal.errors import StoreError
from intermodal.oci.digest import Digest

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "it does not exist",
}


def failure(message: str, path: Path, error: OSError) -> StoreError:
    """An operating system error as people can act on it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        message,
        found=f"{path}: {_REASONS.get(error.errno or 0, error.strerror or str(error))}",
        next="free some space (intermodal prune), or set XDG_DATA_HOME to another disk"
        if full
        else "check the folder and its owner, or set XDG_DATA_HOME to another one",
    )


def damaged(digest: Digest, path: Path) -> StoreError:
    """A blob whose bytes are not those of its name."""
    return StoreError(
        f"blob {digest.short} is damaged",
        found=f"{path} holds other bytes than its name says",
        next="remove that file and build again",
    )


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _new_file(folder: Path) -> tuple[int, str]:
    """A new file of a name that nobody has, open for writing; `tempfile` would cost 8 ms of imports."""
    name = str(folder / f"{os.getpid()}-{os.urandom(12).hex()}")
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), name


def write_file(path: Path, data: bytes, temporary: Path) -> None:
    """Replace `path` by `data`, whole or not at all; `temporary` lies on the same file system."""
    temporary.mkdir(parents=True, exist_ok=True)
    handle, name = _new_file(temporary)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


class BlobWriter:
    """Bytes on their way into the store; without `commit` the `with` block leaves nothing behind."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self._folder = folder
        self._temporary = temporary
        self._hasher = hashlib.sha256()
        self._stream: BinaryIO | None = None
        self._name = ""
        self.size_bytes = 0

    def __enter__(self) -> BlobWriter:
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            handle, self._name = _new_file(self._temporary)
            self._stream = os.fdopen(handle, "wb", buffering=1 << 20)
        except OSError as error:
            raise failure("cannot write into the store", self._temporary, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._drop()

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`.

        Raises:
            StoreError: the disk is full, or the like; nothing remains.
        """
        assert self._stream is not None, "used outside its with block"
        self._hasher.update(data)
        self.size_bytes += len(data)
        try:
            self._stream.write(data)
        except OSError as error:
            raise failure("cannot write into the store", self._temporary, error) from error

    def commit(self, expected: Digest | None = None) -> tuple[Digest, int]:
        """Digest and size of what was written; the store holds it from now on.

        Raises:
            StoreError: the bytes are not `expected`, or cannot be written out.
        """
        assert self._stream is not None, "used outside its with block"
        digest = Digest(self._hasher.hexdigest())
        if expected is not None and digest != expected:
            raise StoreError("cannot store these bytes", found=f"they are {digest}, not {expected}")
        try:
            self._stream.flush()
            os.fchmod(self._stream.fileno(), 0o644)
            os.fsync(self._stream.fileno())
            self._stream.close()
            Path(self._name).rename(self._folder / digest.hex)
            self._stream = None
            sync_folder(self._folder)
        except OSError as error:
            raise failure("cannot write into the store", self._folder, error) from error
        return digest, self.size_bytes

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        try:
            if stream is not None:
                stream.close()
        except OSError:
            pass  # flushing to a full disk: the file goes anyway
        finally:
            Path(self._name).unlink(missing_ok=True)
