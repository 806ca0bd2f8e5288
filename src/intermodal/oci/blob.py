"""Blobs on their way into the store: temporary file, fsync, rename, fsync of the folder.

`layout.Store` is made of these; a kill or a full disk at any moment leaves the old state or the new one, and at most a
file in the temporary folder that `prune` sweeps away.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from intermodal.errors import StoreError
from intermodal.host.files import failure, sync_folder
from intermodal.host.held import new_file
from intermodal.oci.digest import Digest


def damaged(digest: Digest, path: Path) -> StoreError:
    """A blob whose bytes are not those of its name."""
    return StoreError(
        f"blob {digest.short} is damaged",
        found=f"{path} holds other bytes than its name says",
        next="remove that file and build again",
    )


class Hashed:
    """A sink that knows the digest and the size of what went through it."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write
        self._hasher = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`."""
        self._hasher.update(data)
        self.size_bytes += len(data)
        self._write(data)

    @property
    def digest(self) -> Digest:
        """The digest of everything so far."""
        return Digest(self._hasher.hexdigest())


class BlobWriter(Hashed):
    """Bytes on their way into the store; without `commit` the `with` block leaves nothing behind."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        super().__init__(self._append)
        self._folder = folder
        self._temporary = temporary
        self._stream: BinaryIO | None = None
        self._name = ""

    def __enter__(self) -> BlobWriter:
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            handle, self._name = new_file(self._temporary)
            self._stream = os.fdopen(handle, "wb", buffering=1 << 20)
        except OSError as error:
            raise failure("cannot write into the store", self._temporary, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._drop()

    def _append(self, data: bytes | memoryview) -> None:
        assert self._stream is not None, "used outside its with block"
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
        digest = self.digest
        if expected is not None and digest != expected:
            raise StoreError("cannot store these bytes", found=f"they are {digest}, not {expected}")
        try:
            self._stream.flush()
            os.fchmod(self._stream.fileno(), 0o644)
            os.fsync(self._stream.fileno())
            Path(self._name).rename(self._folder / digest.hex)
            stream, self._stream = self._stream, None
            stream.close()  # only now: closing lets go of the lock that tells sweepers to leave the file alone
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
