"""The entries of a package's tar member, streamed through bounded decompression.

Takes the compressed bytes as a stream; hands on `TarEntry` values with their content in pieces, so memory
does not grow with the package. The archive itself is read by `oci.tar_reader`, as image layers are.

Rules, in order:
1. What comes out of a decompressor is counted: above `Limits.expanded_bytes`, or above `Limits.ratio` times
   what went in once 64 MiB are out, it is a bomb. A dictionary above 128 MiB is refused before it is
   allocated.
2. Entries are counted; files, folders and links are all that a package may hold.

Spec: deb(5), "data.tar".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Struct

from intermodal.errors import InputError, PackageFileError
from intermodal.oci.tar_reader import TarEntry, read_entries

PIECE_BYTES = 1 << 20
RATIO_FLOOR_BYTES = 64 << 20
XZ_MEMORY_BYTES = 128 << 20


class Limits(Struct, frozen=True):
    """How much one package may bring."""

    expanded_bytes: int = 4 << 30
    entries: int = 200_000
    ratio: int = 400


class Readable(Protocol):
    """Anything with a bounded `read`."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; b"" at the end."""
        ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """zlib with the interface of lzma: input it has not used yet is kept inside."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False  # the last answer was as long as allowed, so more may be waiting

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        assert max_length > 0
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece


class Expander:
    """What a compressed stream holds, never more than asked for and never more than `Limits` allow."""

    def __init__(self, source: Readable, suffix: str, limits: Limits, title: str) -> None:
        """Read `source` as `suffix` says: "" (plain), ".gz" or ".xz"."""
        self._source, self._limits, self._title = source, limits, title
        self._make = _decompressor(suffix, title)
        self._inner = self._make() if self._make else None
        self._pending = b""
        self.bytes_in = 0
        self.bytes_out = 0

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer only at the end.

        Raises:
            PackageFileError: damaged, cut short, or a bomb.
        """
        pieces: list[bytes] = []
        wanted = size
        while wanted > 0:
            piece = self._some(min(wanted, PIECE_BYTES))
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, size: int) -> None:
        """Move on by `size` bytes."""
        while size > 0 and (piece := self._some(min(size, PIECE_BYTES))):
            size -= len(piece)

    def _some(self, size: int) -> bytes:
        if self._inner is None:
            piece = self._source.read(size)
            self.bytes_in += len(piece)
        else:
            piece = self._decompressed(size)
        self.bytes_out += len(piece)
        over = self.bytes_out > max(RATIO_FLOOR_BYTES, self.bytes_in * self._limits.ratio)
        if over or self.bytes_out > self._limits.expanded_bytes:
            raise PackageFileError(
                f"{self._title} expands beyond all bounds",
                found=f"{self.bytes_out} bytes out of {self.bytes_in}",
                next="it is damaged or hostile: do not use it",
            )
        return piece

    def _decompressed(self, size: int) -> bytes:
        import lzma

        assert self._inner is not None
        assert self._make is not None
        while True:
            if self._inner.eof:
                following = self._inner.unused_data or self._refill()
                while following and not following.strip(b"\0"):  # xz streams may be padded with zeros
                    following = self._refill()
                if not following:
                    return b""
                self._pending = following.lstrip(b"\0")
                self._inner = self._make()
            if self._inner.needs_input and not self._pending:
                self._pending = self._refill()
                if not self._pending:
                    raise PackageFileError(f"{self._title} is cut short", found="its compressed data has no end")
            data, self._pending = self._pending, b""
            try:
                piece = self._inner.decompress(data, size)
            except (zlib.error, lzma.LZMAError) as error:
                raise PackageFileError(f"{self._title} is damaged", found=str(error)) from error
            if piece:
                return piece

    def _refill(self) -> bytes:
        data = self._source.read(1 << 16)
        self.bytes_in += len(data)
        return data


def _decompressor(suffix: str, title: str) -> Callable[[], _Decompressor] | None:
    if suffix == "":
        return None
    if suffix == ".gz":
        return _Gunzip
    if suffix == ".xz":
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
    raise PackageFileError(
        f"{title} is compressed in a way that Debian 12 and 13 do not use",
        found=f"a member ending in {suffix}",
    )


def tar_entries(source: Expander, limits: Limits, title: str) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    """Every entry with its content in pieces; what is not consumed is skipped.

    Raises:
        PackageFileError: damaged, cut short, too many entries, or a type that no package needs.
    """
    entries = read_entries(source)
    count = 0
    while (entry := _next(entries, title)) is not None:
        count += 1
        if count > limits.entries:
            raise PackageFileError(f"{title} has too many entries", found=f"more than {limits.entries}")
        if entry.kind in ("device", "fifo"):
            raise PackageFileError(
                f"{title} holds a {entry.kind}", found=entry.path, next="it is damaged or hostile: do not use it"
            )
        pieces = _content(source, entry.size_bytes, title)
        yield entry, pieces
        for _ in pieces:
            pass


def _next(entries: Iterator[TarEntry], title: str) -> TarEntry | None:
    """The next entry; what the reader says about layers is said about the package."""
    try:
        return next(entries, None)
    except PackageFileError:
        raise
    except InputError as error:
        raise PackageFileError(f"{title} is damaged", found=(error.message, *error.found)) from error


def _content(source: Expander, size: int, title: str) -> Iterator[bytes]:
    left = size
    while left:
        piece = source.take(min(left, PIECE_BYTES))
        if not piece:
            raise PackageFileError(f"{title} is cut short", found=f"{left} of {size} bytes of a file are missing")
        left -= len(piece)
        yield piece
