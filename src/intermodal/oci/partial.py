"""Blobs that arrive in several attempts: what came is kept, and appears in the store when it is all and right.

Takes the store's folders and a descriptor; hands on a sink. A file of its own beside the store's other temporary ones,
named by the digest, so that the next attempt, also of another process, continues it. `prune` sweeps what nobody holds.

Rules, in order:
1. One process at a time works on a digest: it holds a lock on the file, and whoever waited looks again.
2. What an earlier attempt left is hashed again before it counts.
3. `commit` compares digest and size, syncs, and renames; before that nothing has the blob's name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from intermodal.errors import StoreError
from intermodal.host.files import failure, sync_folder
from intermodal.host.held import is_at
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import CHUNK_BYTES, Digest

FOLDER = "partial"


class PartialBlob:
    """A sink for one blob, for the length of a `with` block; `have` counts what it holds."""

    def __init__(self, root: Path, blob: Descriptor) -> None:
        self.have = 0
        self._blob = blob
        self._final = root / "blobs" / "sha256" / blob.digest.hex
        self._path = root / FOLDER / blob.digest.hex
        self._hash = hashlib.sha256()
        self._stream: BinaryIO | None = None

    def __enter__(self) -> PartialBlob:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(handle, fcntl.LOCK_EX)
                if is_at(handle, self._path):
                    break
                os.close(handle)  # finished, or swept away, while we waited
            self._stream = os.fdopen(handle, "r+b", buffering=CHUNK_BYTES)
            self._resume()
        except OSError as error:
            raise failure("cannot write into the store", self._path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            if not self.have or self.present:
                self._path.unlink(missing_ok=True)
            stream.close()
        except OSError:
            pass  # flushing to a full disk: what is there is hashed again before it counts

    @property
    def present(self) -> bool:
        """Whether the store has the blob by now."""
        return self._final.is_file()

    @property
    def digest(self) -> Digest:
        """Of what has arrived."""
        return Digest(self._hash.hexdigest())

    def write(self, piece: bytes) -> None:
        """Append `piece`.

        Raises:
            StoreError: the disk is full.
        """
        assert self._stream is not None, "used outside its with block"
        try:
            self._stream.write(piece)
        except OSError as error:
            raise failure("cannot write into the store", self._path, error) from error
        self._hash.update(piece)
        self.have += len(piece)

    def restart(self) -> None:
        """Throw away what has arrived."""
        assert self._stream is not None, "used outside its with block"
        try:
            self._stream.seek(0)
            self._stream.truncate()
        except OSError as error:
            raise failure("cannot write into the store", self._path, error) from error
        self._hash, self.have = hashlib.sha256(), 0

    def settled(self) -> Path:
        """The file with everything that has arrived, to be looked at before it is committed."""
        assert self._stream is not None, "used outside its with block"
        try:
            self._stream.flush()
        except OSError as error:
            raise failure("cannot write into the store", self._path, error) from error
        return self._path

    def commit(self) -> None:
        """Let the store hold the blob.

        Raises:
            StoreError: these are not its bytes, or they cannot be written out.
        """
        assert self._stream is not None, "used outside its with block"
        if self.digest != self._blob.digest or self.have != self._blob.size_bytes:
            raise StoreError("cannot store these bytes", found=f"they are {self.digest}, not {self._blob.digest}")
        try:
            self._stream.flush()
            os.fchmod(self._stream.fileno(), 0o644)
            os.fsync(self._stream.fileno())
            self._path.rename(self._final)
            sync_folder(self._final.parent)
        except OSError as error:
            raise failure("cannot write into the store", self._path, error) from error
        stream, self._stream = self._stream, None
        stream.close()

    def _resume(self) -> None:
        """Hash what an earlier attempt left; leave the stream at its end."""
        assert self._stream is not None
        while chunk := self._stream.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self.have += len(chunk)
        if self.have > self._blob.size_bytes:
            self.restart()
