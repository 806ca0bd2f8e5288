"""What stored bytes really are: digest, size, and the diff id of what they unpack to, in one pass.

Takes a file of the store, hands on `Measured`. Never raises for what it reads: bytes that do not inflate still have a
digest, and a file that cannot be read says why. Memory stays bounded; what unpacks beyond the limits of layers stops.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from intermodal.events import Task
from intermodal.oci.descriptor import Compression
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.oci.layer_stream import LIMITS, damage_of, plain_reader

_NOTHING = Digest.of(b"")


class Measured(Struct, frozen=True):
    """A file as it is."""

    digest: Digest = _NOTHING
    size_bytes: int = 0
    diff_id: Digest | None = None  # None when it was not asked for, or does not inflate
    why: str = ""  # it does not inflate
    missing: str = ""  # why the file could not be read; then nothing else counts


def measure(path: Path, task: Task, *, inflate: Compression | None = None) -> Measured:
    """What the file at `path` is; `task` is told every byte read, `inflate` (how it is packed) asks for the diff id."""
    try:
        with path.open("rb", buffering=0) as stream:
            counted = _Counted(stream, task)
            diff_id, why = _inflated(counted, inflate) if inflate else (None, "")
            buffer = bytearray(CHUNK_BYTES)
            while counted.readinto(buffer):
                pass
    except OSError as error:
        return Measured(missing=error.strerror or str(error))
    return Measured(Digest(counted.hash.hexdigest()), counted.size_bytes, diff_id, why)


class _Counted(io.RawIOBase):
    """A file that hashes and counts what is read from it."""

    def __init__(self, stream: BinaryIO | io.FileIO, task: Task) -> None:
        self._stream, self._task = stream, task
        self.hash = hashlib.sha256()
        self.size_bytes = 0
        self.failure: OSError | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read up to `len(buffer)` bytes."""
        try:
            size = int(self._stream.readinto(buffer))  # type: ignore[union-attr]
        except OSError as error:
            self.failure = error
            raise
        self.hash.update(memoryview(buffer)[:size])
        self.size_bytes += size
        self._task.advance(size)
        return size


def _inflated(stored: _Counted, compression: Compression) -> tuple[Digest | None, str]:
    """The digest of the plain bytes, or None and why there is none.

    Raises:
        OSError: the disk, not the format.
    """
    hasher, size_bytes = hashlib.sha256(), 0
    damage: tuple[type[Exception], ...] = (EOFError, ValueError, OSError, *damage_of(compression))
    try:
        plain = plain_reader(stored, compression)
        while chunk := plain.read(CHUNK_BYTES):
            hasher.update(chunk)
            size_bytes += len(chunk)
            if size_bytes > max(LIMITS.ratio_from_bytes, LIMITS.ratio * stored.size_bytes):
                return None, f"it unpacks to far more than it should: {size_bytes} bytes out of {stored.size_bytes}"
    except damage as error:
        if stored.failure is not None:
            raise stored.failure from error
        return None, str(error)
    if not size_bytes and not stored.size_bytes:
        return None, "it is empty"
    return Digest(hasher.hexdigest()), ""
