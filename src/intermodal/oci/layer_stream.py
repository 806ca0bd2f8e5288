"""A stored layer as the bytes of its tar, inflated and hashed on the way.

Takes an open file of the store, hands on the tar's bytes in the pieces asked for. Both digests are known only at the
end, so whoever reads must treat everything as unproven until `finish` has returned; a stream that inflates to far
more than `Limits` allow stops with an error before it can fill a disk.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from msgspec import Struct

from intermodal.errors import InputError, StoreError
from intermodal.oci.descriptor import Compression
from intermodal.oci.digest import CHUNK_BYTES, Digest


class Limits(Struct, frozen=True):
    """How much a layer may hold before it counts as a bomb."""

    entries: int = 1_000_000
    tar_bytes: int = 256 << 30
    ratio: int = 200  # tar bytes per stored byte, once more than `ratio_from_bytes` came out
    ratio_from_bytes: int = 256 << 20
    depth: int = 128  # folders above an entry


LIMITS = Limits()
ZSTD_WINDOW_BYTES = 128 << 20  # what `zstd --ultra` writes at most without being told; memory is bounded by it


class _HashingReader(io.RawIOBase):
    """A file that hashes and counts what is read from it."""

    def __init__(self, stored: BinaryIO) -> None:
        self._stored = stored
        self.hash = hashlib.sha256()
        self.size_bytes = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read up to `len(buffer)` bytes."""
        size = self._stored.readinto(buffer)  # type: ignore[attr-defined]
        self.hash.update(memoryview(buffer)[:size])
        self.size_bytes += size
        return int(size)


class LayerStream:
    """The uncompressed bytes of one layer, of one or many members or frames; the caller closes `stored`."""

    def __init__(self, stored: BinaryIO, limits: Limits = LIMITS, compression: Compression = "gzip") -> None:
        self._stored = _HashingReader(stored)
        self._compression = compression
        self._plain = plain_reader(self._stored, compression)
        self._limits = limits
        self._tar_hash = hashlib.sha256()
        self._tar_bytes = 0
        self._buffer = memoryview(b"")

    @property
    def tar_bytes(self) -> int:
        """How much of the tar came out so far."""
        return self._tar_bytes

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer only at the end."""
        if len(self._buffer) >= size:
            data = bytes(self._buffer[:size])
            self._buffer = self._buffer[size:]
            return data
        return b"".join(bytes(piece) for piece in self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """`size` bytes in the pieces they arrive in; fewer only at the end.

        Raises:
            StoreError: the stored bytes are no gzip, or damaged.
            InputError: more came out than the limits allow.
        """
        while size and (self._buffer or self._fill()):
            piece = self._buffer[:size]
            self._buffer = self._buffer[size:]
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Move on by `size` bytes."""
        for _ in self.pieces(size):
            pass

    def finish(self, digest: Digest, diff_id: Digest) -> None:
        """Read to the end and compare both digests.

        Raises:
            StoreError: one of them is another; both are named.
        """
        while self._fill():
            pass
        for name, stated, found in (
            ("digest", digest, Digest(self._stored.hash.hexdigest())),
            ("diff id", diff_id, Digest(self._tar_hash.hexdigest())),
        ):
            if stated != found:
                raise StoreError(
                    f"a stored layer has another {name} than it should",
                    found=(f"stated {stated}", f"actual {found}"),
                    next="remove the image and build or pull it again",
                )

    def _fill(self) -> bool:
        """Get the next piece of the tar; False at its end."""
        try:
            data = self._plain.read(CHUNK_BYTES)
        except damage_of(self._compression) as error:
            raise StoreError(f"a stored layer is damaged, or not {self._compression}", found=str(error)) from error
        except OSError as error:
            if error.errno is not None:  # the disk, not the format
                raise
            raise StoreError(f"a stored layer is damaged, or not {self._compression}", found=str(error)) from error
        self._tar_hash.update(data)
        self._tar_bytes += len(data)
        limits = self._limits
        if self._tar_bytes > limits.tar_bytes or (
            self._tar_bytes > limits.ratio_from_bytes and self._tar_bytes > limits.ratio * self._stored.size_bytes
        ):
            raise InputError(
                "the layer unpacks to far more than it should",
                found=f"{self._tar_bytes} bytes so far, out of {self._stored.size_bytes} stored ones",
            )
        self._buffer = memoryview(data)
        return bool(data)


def plain_reader(stored: io.RawIOBase, compression: Compression) -> BinaryIO:
    """A reader of what `stored` unpacks to; never unbounded in memory."""
    if compression == "gzip":
        from isal import igzip

        return cast("BinaryIO", igzip.IGzipFile(fileobj=stored, mode="rb"))  # type: ignore[no-untyped-call]
    if compression == "zstd":
        import zstandard

        # a truncated frame simply ends here; the diff id tells
        opener = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        return cast("BinaryIO", opener.stream_reader(cast("BinaryIO", stored), read_across_frames=True))
    return cast("BinaryIO", stored)


def damage_of(compression: Compression) -> tuple[type[Exception], ...]:
    """The errors that damaged bytes of this kind raise, besides those of the disk."""
    if compression == "gzip":
        from isal import isal_zlib

        return EOFError, cast("type[Exception]", isal_zlib.error)
    if compression == "zstd":
        import zstandard

        return (zstandard.ZstdError,)
    return ()
