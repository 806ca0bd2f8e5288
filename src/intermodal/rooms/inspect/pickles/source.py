"""A stream to read pickles from: plain or compressed, in bounded memory, raw array bytes skipped.

Takes a file, hands on a `Source`: exact reads, lines, skips, and the position. Compression is recognised as joblib
does it, by the first bytes. Rules: never more than one chunk beyond what was asked is held; a stream of more than
`FREE_BYTES` may be at most `MAX_RATIO` times as long as its file; a skip in a plain file is a seek.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO

from intermodal.rooms.inspect.pickles.values import Damaged, LimitExceeded, Truncated

CHUNK_BYTES = 1 << 18
FREE_BYTES = 1 << 28
MAX_RATIO = 200
LZMA_MEMORY_BYTES = 160 << 20
MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZ", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00", "lzma"),
    (b"\x78", "zlib"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


def compression_of(head: bytes) -> str:
    """The compression that joblib would see in the first bytes of a file; "" for none."""
    return next((name for magic, name in MAGIC if head.startswith(magic)), "")


class _Zlib:
    """zlib or gzip with the interface of the other two."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _decompressor(kind: str) -> _Zlib | bz2.BZ2Decompressor | lzma.LZMADecompressor:
    if kind == "gzip":
        return _Zlib(31)
    if kind == "zlib":
        return _Zlib(15)
    if kind == "bz2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES)


class Unpacked:
    """A compressed file as a plain stream: all members one after another, as joblib reads them."""

    def __init__(self, stream: BinaryIO, kind: str, size_bytes: int) -> None:
        self._stream = stream
        self._kind = kind
        self._inner = _decompressor(kind)
        self._limit_bytes = max(FREE_BYTES, size_bytes * MAX_RATIO)
        self._given_bytes = 0

    def read(self, size_bytes: int) -> bytes:
        """At most `size_bytes` of plain bytes; b"" at the end.

        Raises:
            Truncated: the compressed stream stops early.
            Damaged: it is not what its first bytes promise.
            LimitExceeded: it unpacks to far more than any model does.
        """
        try:
            while True:
                if self._inner.eof:
                    rest = self._inner.unused_data or self._stream.read(CHUNK_BYTES)
                    if not rest.strip(b"\0") and self._kind in ("gzip", "xz", "lzma"):
                        return b""  # zero padding is part of these formats
                    if not rest:
                        return b""
                    self._inner = _decompressor(self._kind)
                    data = self._inner.decompress(rest, size_bytes)
                elif self._inner.needs_input:
                    packed = self._stream.read(CHUNK_BYTES)
                    data = self._inner.decompress(packed, size_bytes)
                    if not packed and not data:  # zlib may hold output back after its last input
                        raise Truncated(f"the {self._kind} data stops before its end", self._given_bytes)
                else:
                    data = self._inner.decompress(b"", size_bytes)
                if data:
                    return self._count(data)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
            raise Damaged(f"the {self._kind} data is damaged ({error})", self._given_bytes) from error

    def _count(self, data: bytes) -> bytes:
        self._given_bytes += len(data)
        if self._given_bytes > self._limit_bytes:
            raise LimitExceeded(f"it unpacks to more than {self._limit_bytes >> 20} MiB", self._given_bytes)
        return data


class Source:
    """Exact reads over a file or an `Unpacked` stream; the caller closes the file."""

    def __init__(self, stream: BinaryIO | Unpacked, size_bytes: int = -1) -> None:
        self._stream = stream
        self._size_bytes = size_bytes  # -1: unknown, because packed
        self._buffer = b""
        self._at = 0
        self._start = 0  # stream position of the buffer's first byte

    @property
    def position(self) -> int:
        """The byte that will be read next."""
        return self._start + self._at

    def read(self, size_bytes: int) -> bytes:
        """Exactly `size_bytes` bytes.

        Raises:
            Truncated: the stream ends before.
        """
        at = self._at
        end = at + size_bytes
        if end <= len(self._buffer):
            self._at = end
            return self._buffer[at:end]
        return self._read_on(size_bytes)

    def _read_on(self, size_bytes: int) -> bytes:
        if 0 <= self._size_bytes < self.position + size_bytes:
            raise Truncated("the file ends inside a value", self._size_bytes)
        while len(self._buffer) - self._at < size_bytes:
            if not self._fill():
                raise Truncated("the file ends inside a value", self._start + len(self._buffer))
        return self.read(size_bytes)

    def _fill(self) -> bool:
        more = self._stream.read(CHUNK_BYTES)
        self._start += self._at
        self._buffer = self._buffer[self._at :] + more
        self._at = 0
        return bool(more)

    def line(self, limit_bytes: int) -> bytes:
        """Everything up to the next newline, which is read too and not returned."""
        while True:
            end = self._buffer.find(b"\n", self._at)
            if end >= 0 and end - self._at <= limit_bytes:
                found = self._buffer[self._at : end]
                self._at = end + 1
                return found
            if len(self._buffer) - self._at > limit_bytes:
                raise LimitExceeded(f"a line of more than {limit_bytes} bytes", self.position)
            if not self._fill():
                raise Truncated("the file ends inside a line", self._start + len(self._buffer))

    def skip(self, size_bytes: int) -> None:
        """Pass over `size_bytes` bytes without holding them.

        Raises:
            Truncated: the stream ends before.
        """
        left = size_bytes - (len(self._buffer) - self._at)
        if left <= 0:
            self._at += size_bytes
            return
        if 0 <= self._size_bytes < self.position + size_bytes:
            raise Truncated("the file ends inside an array", self._size_bytes)
        self._start += len(self._buffer)
        self._buffer, self._at = b"", 0
        if self._size_bytes >= 0 and not isinstance(self._stream, Unpacked):
            self._stream.seek(left, 1)
            self._start += left
            return
        while left > 0:
            piece = self._stream.read(min(left, CHUNK_BYTES))
            if not piece:
                raise Truncated("the file ends inside an array", self._start)
            left -= len(piece)
            self._start += len(piece)

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._buffer) and not self._fill()


def open_source(stream: BinaryIO, path: Path) -> tuple[Source, str]:
    """A source over an open file, and the name of its compression ("" for none)."""
    size_bytes = path.stat().st_size
    head = stream.read(8)
    stream.seek(0)
    kind = compression_of(head)
    if kind:
        return Source(Unpacked(stream, kind, size_bytes)), kind
    return Source(stream, size_bytes), ""
